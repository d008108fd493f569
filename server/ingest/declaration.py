"""From a declaration to a row of `runs`."""

from __future__ import annotations

from typing import Any

from server.runs import sparkline
from server.runs.repository import tag_index
from server.runs.rows import RunRow
from wire import RunDeclaration

AHEAD_S = 86_400.0  # that a job's clock may be ahead of the server's


def new_run(run_id: str, declaration: RunDeclaration, now: float) -> RunRow:
    """The row of a run that is declared for the first time."""
    return RunRow(
        id=run_id,
        project=declaration.project,
        name=declaration.name,
        tags=list(declaration.tags),
        tag_index=tag_index(declaration.tags),
        config=declaration.config,
        status="running",
        ended=None,
        end_reason="",
        diverged=False,
        diverging=False,
        created_at=now,
        started_at=_started_at(declaration, now),
        last_seen=now,
        first_step=None,
        last_step=None,
        last_loss=None,
        sparkline=sparkline.empty(),
        frames=0,
        layout_hash=declaration.layout.hash,
        agent_version=declaration.agent_version,
        family="",
        architecture="",
        placement=None,
        n_params=0,
        stacks={},
        missing=[],
        notes=[],
        describe_id=None,
        burst=None,
        process_since=now,
    )


def changes(run: RunRow, declaration: RunDeclaration, now: float) -> dict[str, Any]:
    """The columns that a later declaration changes.

    Name and tags stay as they are: somebody may have edited them on a page. A job that was
    started again after the run's end makes it run again; an agent that merely reconnects to
    resend its spool does not.
    """
    started_at = _started_at(declaration, now)
    values: dict[str, Any] = {
        "config": declaration.config,
        "agent_version": declaration.agent_version,
        "started_at": max(run.started_at, started_at),
        "last_seen": now,
    }
    if not declaration.layout.packs_steps:  # a run's layout is that of its sampled steps
        values["layout_hash"] = declaration.layout.hash
    started_again = started_at > run.started_at
    if started_again:
        # The burst was asked of a process that is gone.
        values |= {"process_since": now, "burst": None}
    if run.ended is not None and started_again:
        values |= {"ended": None, "end_reason": "", "status": "running"}
    elif run.status == "lost_contact":
        values["status"] = "running"
    return values


def _started_at(declaration: RunDeclaration, now: float) -> float:
    """When the job began, by its clock; one far ahead must not outlive every later start."""
    return min(declaration.started_at, now + AHEAD_S)
