"""``/runs/{run_id}/attribution``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.app_state import State
from server.attribution import service
from server.attribution.schemas import AttributionAnswer
from server.predictions.service import MAX_STEP
from server.runs.dependencies import ReadableRun

router = APIRouter(tags=["predictions"])


@router.get("/runs/{run_id}/attribution")
async def show_attribution(
    run: ReadableRun,
    state: State,
    step: Annotated[int | None, Query(ge=0, le=MAX_STEP)] = None,
) -> AttributionAnswer:
    """Each block's change since the first description, by cause, at the last one up to `step`."""
    return await service.show(state.database, run.id, step)
