"""``/runs``: list, show, edit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.access.dependencies import Reader, require_project
from server.app_state import State
from server.runs import service
from server.runs.dependencies import EditableRun, ReadableRun
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
    state: State,
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
    filters = RunFilter(search, project or caller.project, status, tag)
    return await service.list_runs(state.database, filters, cursor=cursor, limit=limit)


@router.get("/runs/{run_id}")
async def show_run(run: ReadableRun, state: State) -> RunDetail:
    """Everything about one run except its measurements."""
    return await service.show(state.database, run)


@router.patch("/runs/{run_id}")
async def edit_run(run: EditableRun, change: RunChange, state: State) -> RunDetail:
    """Rename a run or replace its tags."""
    return await service.edit(state.database, run, change)


@router.post("/runs/{run_id}/describe", status_code=202)
async def describe_run(run: EditableRun, state: State) -> DescriptionAsked:
    """Ask the running job for a fresh description of its model, as its weights now are."""
    return await service.ask_for_description(state.database, run)


@router.post("/runs/{run_id}/burst", status_code=202)
async def burst_run(run: EditableRun, request: BurstRequest, state: State) -> BurstAsked:
    """Ask the running job to sample every one of its next steps, of these layers or of all."""
    return await service.ask_for_burst(state.database, run, request)
