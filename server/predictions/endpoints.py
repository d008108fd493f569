"""``/runs/{run_id}/predictions``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.app_state import State
from server.predictions import service
from server.predictions.schemas import Predictions, SpecAnswer
from server.runs.dependencies import ReadableRun

router = APIRouter(tags=["predictions"])

Step = Annotated[int, Query(ge=0, le=service.MAX_STEP)]


@router.get("/runs/{run_id}/predictions")
async def show_predictions(run: ReadableRun, state: State, step: Step | None = None) -> Predictions:
    """Theory's curves: the first revision is at initialisation, the last is today's.

    With `step`, the one revision that held at that step.
    """
    return await service.show(state.database, run.id, step)


@router.get("/runs/{run_id}/spec")
async def show_spec(run: ReadableRun, state: State, step: Step | None = None) -> SpecAnswer:
    """The model's description of a revision's `step`; the newest when absent."""
    return await service.spec(state.database, run.id, step)
