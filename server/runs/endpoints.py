"""``/runs``: list, show, edit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.access.dependencies import EditableRun, ReadableRun, Reader, require_project
from server.parts import Serving
from server.runs import service
from server.runs.repository import RunFilter
from server.runs.schemas import (
    BurstAsked,
    BurstRequest,
    DescriptionAsked,
    RunChange,
    RunDetail,
    RunPage,
)
from server.runs.status import Status

router = APIRouter(tags=["runs"])


@router.get("/runs")
async def list_runs(
    caller: Reader,
    parts: Serving,
    *,
    search: str | None = None,
    project: str | None = None,
    status: Status | None = None,
    tag: str | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> RunPage:
    """Runs, newest first; `search` looks for every word in name, project, tags and architecture."""
    if project is not None:
        require_project(caller, project)
    wanted = RunFilter(search, project or caller.project, status, tag)
    return await service.list_runs(parts.database, wanted, cursor=cursor, limit=limit)


@router.get("/runs/{run_id}")
async def show_run(run: ReadableRun, parts: Serving) -> RunDetail:
    """Everything about one run except its measurements."""
    return await service.show(parts.database, run)


@router.patch("/runs/{run_id}")
async def edit_run(run: EditableRun, change: RunChange, parts: Serving) -> RunDetail:
    """Rename a run or replace its tags."""
    return await service.edit(parts.database, run, change)


@router.post("/runs/{run_id}/describe", status_code=202)
async def describe_run(run: EditableRun, parts: Serving) -> DescriptionAsked:
    """Ask the running job for a fresh description of its model, as its weights now are."""
    return await service.ask_for_description(parts.database, run)


@router.post("/runs/{run_id}/burst", status_code=202)
async def burst_run(run: EditableRun, wanted: BurstRequest, parts: Serving) -> BurstAsked:
    """Ask the running job to sample every one of its next steps, of these layers or of all."""
    return await service.ask_for_burst(parts.database, run, wanted)
