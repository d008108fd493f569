"""The alerts of a server's runs, a line each."""

from __future__ import annotations

from typing import Any

import httpx

from evenkeel.api import all_runs, read

NEWEST = 100


class AlertLines:
    """Alerts of the runs that begin from now on, in the order in which they open.

    An alert has another line when it becomes more severe, and when it is resolved.
    """

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url
        self._earlier_runs = {run["id"] for run in all_runs(client, search="")}
        self._printed: set[tuple[str, str, bool]] = set()

    def new(self) -> list[str]:
        """The lines since the last call.

        Raises:
            StartError: if the server does not answer.
        """
        alerts = reversed(read(self._client, "/alerts", limit=NEWEST)["alerts"])
        return [self._line(alert) for alert in alerts if self._is_new(alert)]

    def _is_new(self, alert: dict[str, Any]) -> bool:
        if alert["run_id"] in self._earlier_runs:
            return False
        state = (alert["id"], alert["severity"], alert["status"] == "resolved")
        is_new = state not in self._printed
        self._printed.add(state)
        return is_new

    def _line(self, alert: dict[str, Any]) -> str:
        resolved = alert["status"] == "resolved"
        step = alert["last_step"] if resolved else alert["step"]
        state = "resolved" if resolved else alert["severity"]
        page = f"{self._url}/runs/{alert['run_id']}?step={step}"
        return f"{alert['run_name']}, step {step}: {state}: {alert['title']}  {page}"
