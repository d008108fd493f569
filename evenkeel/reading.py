"""``evenkeel show``, ``alerts`` and ``tail``: a server's runs in a terminal, or as JSON lines."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from evenkeel.client import Client, ClientError, Run, Verdict
from server.errors import StartError

WIDTH = 96
POLL_S = 1.0
SILENT_S = 300.0  # after which a run that diverged is taken as over
T = TypeVar("T")
SHOWN = ("loss", "learning_rate", "gradient_norm")


def show(server: str, key: str | None, name: str, *, as_json: bool) -> None:
    """Print how a run is.

    Raises:
        StartError: if the server does not answer, refuses, or has no such run.
    """
    with _client(server, key) as client:
        run = _asked(lambda: client.run(name))
        verdict = _asked(run.verdict)
    if as_json:
        print(json.dumps({"id": run.id, "url": run.url, **plain(verdict.as_dict())}, indent=2))
        return
    print("\n".join(_wrapped(verdict)))
    if not verdict.findings:
        print(run.url)


def alerts(server: str, key: str | None, name: str | None, status: str, *, as_json: bool) -> None:
    """Print incidents, newest first: one line each, or a JSON line each.

    Raises:
        StartError: if the server does not answer, refuses, or has no such run.
    """
    with _client(server, key) as client:
        run = None if name is None else _asked(lambda: client.run(name))
        filtered = None if status == "any" else status
        incidents = _asked(lambda: client.incidents(run=run, status=filtered))
    for incident in incidents:
        print(json.dumps(plain(incident)) if as_json else _line(incident, server))
    if not incidents and not as_json:
        print("No alerts." if status == "any" else f"No {status} alerts.")


def tail(server: str, key: str | None, name: str, *, as_json: bool) -> None:
    """Print a run's numbers and alerts as they come, until it ends.

    Raises:
        StartError: if the server does not answer, refuses, or has no such run.
    """
    with _client(server, key) as client:
        run = _asked(lambda: client.run(name))
        printed: set[str] = set()
        # As `tail` does: from the last few steps on.
        after = -1 if run.step is None else run.step - 10
        while True:
            rows = _asked(partial(_steps, run, after))
            for row in rows:
                print(json.dumps(plain(row)) if as_json else _step_line(row), flush=True)
                after = row["step"]
            for incident in reversed(_asked(run.incidents)):
                if incident["id"] not in printed and incident["status"] != "resolved":
                    printed.add(incident["id"])
                    print(
                        json.dumps({"incident": plain(incident)})
                        if as_json
                        else _line(incident, server),
                        flush=True,
                    )
            if not rows and _is_over(_asked(run.reload)):
                print(_end(run, as_json=as_json))
                return
            time.sleep(POLL_S)


def _is_over(run: Run) -> bool:
    """Whether nothing more will come; a run that is lost may come back."""
    if run.status in {"finished", "failed"} or run.info["end_reason"]:
        return True
    return run.status == "diverged" and time.time() - run.info["last_seen"] > SILENT_S


def _client(server: str, key: str | None) -> Client:
    return _asked(lambda: Client(server, key))


def _asked(what: Callable[[], T]) -> T:
    """What is asked of the client, whose error is the command's."""
    try:
        return what()
    except ClientError as error:
        raise StartError(str(error)) from None


def _steps(run: Run, after: int) -> list[dict[str, Any]]:
    recorded = {key for key in run.reload().series if key.startswith("/")}
    keys = [name for name in SHOWN if f"/{name}/value" in recorded]
    if not keys or run.step is None:
        return []
    columns = {name: run.scalars(name, after=after)[f"/{name}/value"] for name in keys}
    steps = columns[keys[0]].steps
    return [
        {"step": int(step)} | {name: float(each.values[row]) for name, each in columns.items()}
        for row, step in enumerate(steps)
    ]


def _step_line(row: dict[str, Any]) -> str:
    values = "  ".join(
        f"{name} {value:.4g}"
        for name, value in row.items()
        if name != "step" and not math.isnan(value)
    )
    return f"step {row['step']:>8}  {values}"


def _line(incident: dict[str, Any], server: str) -> str:
    at = f"{server.rstrip('/')}/runs/{incident['run_id']}?step={incident['first_step']}"
    return (
        f"{incident['severity']:<9}{incident['status']:<13}{incident['run_name']}, step "
        f"{incident['first_step']}: {incident['title']}  {at}"
    )


def _end(run: Run, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"status": run.status, "reason": run.info["end_reason"]})
    return f"{run.name}: {run.status} {run.info['end_reason']}".rstrip(": ")


def _wrapped(verdict: Verdict) -> Iterator[str]:
    for line in str(verdict).splitlines():
        indent = "  " if line.startswith(("- ", "note: ")) else ""
        yield from textwrap.wrap(
            line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]


def plain(value: Any) -> Any:
    """Return what JSON can hold: numbers that it has none for become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value
