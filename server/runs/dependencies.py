"""What endpoints of one run declare: its id, or the run that the caller may touch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path

from server.access.dependencies import Caller, require_project, require_scope
from server.access.principal import Scope
from server.app_state import State
from server.errors import RunNotFound
from server.runs.repository import RunRepository
from server.runs.rows import RunRow

RunId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits")]


def _run_for(scope: Scope) -> Callable[..., Awaitable[RunRow]]:
    async def load(run_id: RunId, caller: Caller, state: State) -> RunRow:
        require_scope(caller, scope)
        async with state.database.reading() as session:
            run = await RunRepository(session).get(run_id)
        if run is None:
            raise RunNotFound(run_id)
        require_project(caller, run.project)
        return run

    return load


WritableRun = Annotated[RunRow, Depends(_run_for("ingest"))]
ReadableRun = Annotated[RunRow, Depends(_run_for("read"))]
EditableRun = Annotated[RunRow, Depends(_run_for("admin"))]
