"""``evenkeel runs`` and ``evenkeel export``: a server's runs as a table, and one as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evenkeel.api import all_runs, client_of, download

COLUMNS = f"{'id':34}{'status':14}{'step':>8}  {'loss':>8}  {'alerts':>7}  name"


def print_runs(server: str, key: str | None, *, search: str, as_json: bool = False) -> None:
    """Print one line for every run, newest first; a JSON object where `as_json`.

    Raises:
        StartError: if the server does not answer, or refuses.
    """
    with client_of(server, key) as client:
        runs = list(all_runs(client, search=search))
    if as_json:
        for run in runs:
            print(json.dumps(run))
        return
    print("\n".join([COLUMNS, *map(line_of, runs)]) if runs else "No runs yet.")


def line_of(run: dict[str, Any]) -> str:
    """Return one run as a line under `COLUMNS`."""
    step = "-" if run["last_step"] is None else run["last_step"]
    loss = run["last_loss"]
    shown = f"{loss:.4f}" if isinstance(loss, float) else loss or "-"
    alerts = f"{run['alerts']['critical']}/{run['alerts']['warning']}"
    name = f"{run['project']}/{run['name']}"
    return f"{run['id']:34}{run['status']:14}{step:>8}  {shown:>8}  {alerts:>7}  {name}"


def export_run(server: str, key: str | None, run_id: str, target: Path, *, file_format: str) -> int:
    """Write a run's frames to `target`; return its size in bytes.

    Raises:
        StartError: if the server does not answer or refuses, or `target` cannot be written.
    """
    with client_of(server, key) as client:
        return download(client, f"/runs/{run_id}/export", target, format=file_format)
