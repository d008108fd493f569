"""From a declaration to a row of `runs`."""

from __future__ import annotations

from typing import Any

from server.database import Row
from server.runs import sparkline
from server.runs.repository import tag_index
from wire import RunDeclaration


def new_row(run_id: str, declaration: RunDeclaration, now: float) -> dict[str, Any]:
    """The row of a run that has just been declared."""
    return {
        **_first_words(run_id, declaration),
        **_newest_words(declaration, now),
        "status": "running",
        "ended": None,
        "end_reason": "",
        "diverged": False,
        "diverging": False,
        "created_at": now,
        "process_since": now,
        "frames": 0,
        "sparkline": sparkline.empty(),
        "family": "",
        "architecture": "",
        "placement": None,
        "n_params": 0,
        "stacks": {},
        "missing": [],
        "notes": [],
    }


def refreshed(run: Row, declaration: RunDeclaration, now: float) -> dict[str, Any]:
    """What a later declaration changes.

    Name and tags stay as they are: somebody may have edited them on a page. A job that was
    started again after the run's end makes it run again; an agent that merely reconnects to
    resend what it held does not.
    """
    values = _newest_words(declaration, now)
    if declaration.started_at > run["started_at"]:
        values |= {"process_since": now, "burst": None}
    values["started_at"] = max(run["started_at"], declaration.started_at)
    if run["ended"] is not None and declaration.started_at > run["started_at"]:
        values |= {"ended": None, "end_reason": "", "status": "running"}
    elif run["status"] == "lost_contact":
        values["status"] = "running"
    return values


def _first_words(run_id: str, declaration: RunDeclaration) -> dict[str, Any]:
    return {
        "id": run_id,
        "project": declaration.project,
        "name": declaration.name,
        "tags": list(declaration.tags),
        "tag_index": tag_index(declaration.tags),
    }


def _newest_words(declaration: RunDeclaration, now: float) -> dict[str, Any]:
    return {
        "config": declaration.config,
        "layout_hash": declaration.layout.hash,
        "agent_version": declaration.agent_version,
        "started_at": declaration.started_at,
        "last_seen": now,
    }
