"""A server, for scripts and notebooks."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from evenkeel.api import PAGE_SIZE
from evenkeel.client.connection import MANY, Connection
from evenkeel.client.errors import ClientError
from evenkeel.client.run import Run

DEFAULT_URL = "http://127.0.0.1:8321"
RUN_ID = re.compile("[0-9a-f]{32}")


class Client(Connection):
    """Reads a server's runs; it changes nothing.

    ::

        with evenkeel.Client() as client:
            print(client.run("gpt/baseline").verdict())
    """

    def __init__(self, server: str | None = None, key: str | None = None) -> None:
        """Connect to `server` with `key`; default ``EVENKEEL_URL``, ``EVENKEEL_KEY``."""
        super().__init__(
            server or os.environ.get("EVENKEEL_URL") or DEFAULT_URL,
            key or os.environ.get("EVENKEEL_KEY") or None,
        )

    def runs(
        self,
        search: str = "",
        *,
        project: str | None = None,
        status: str | None = None,
        tag: str | None = None,
        limit: int = 100,
    ) -> list[Run]:
        """The runs that match, newest first, at most `limit`.

        Args:
            search: words of a name, project or tag.
            project, status, tag: exactly these.
        """
        filters = {"search": search, "project": project, "status": status, "tag": tag}
        return [Run(self, info) for info in self.pages("runs", filters, limit)]

    def run(self, name: str) -> Run:
        """The run of an id, a name or ``project/name``; the newest of several.

        Raises:
            ClientError: where there is none; it names the nearest.
        """
        if RUN_ID.fullmatch(name):
            return Run(self, self.read(f"/runs/{name}"))
        project, _, last = name.rpartition("/")
        matches = self.runs(last, project=project or None, limit=PAGE_SIZE)
        exact = [run for run in matches if name in (run.name, run.info["name"])]
        if not exact:
            raise ClientError(self._no_run(name))
        return exact[0].reload()

    def alerts(
        self, *, run: Run | None = None, status: str | None = None, limit: int = MANY
    ) -> list[dict[str, Any]]:
        """Alerts, newest first, as ``GET /alerts`` has them."""
        return self.pages("alerts", _of(run, status), limit)

    def incidents(
        self, *, run: Run | None = None, status: str | None = None, limit: int = MANY
    ) -> list[dict[str, Any]]:
        """Incidents, newest first, as ``GET /incidents`` has them."""
        return self.pages("incidents", _of(run, status), limit)

    def close(self) -> None:
        """Close the connection."""
        self.http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _no_run(self, name: str) -> str:
        names = [run.name for run in self.runs(limit=PAGE_SIZE)]
        short = {each.rpartition("/")[2]: each for each in names}
        near = get_close_matches(name, [*names, *short], n=1)
        hint = f"; did you mean {short.get(near[0], near[0])!r}?" if near else ""
        return f"the server at {self.server} has no run {name!r}{hint}"


def _of(run: Run | None, status: str | None) -> dict[str, str | None]:
    return {"run": run.id if run else None, "status": status}
