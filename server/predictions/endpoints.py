"""``/runs/{run_id}/predictions``."""

from __future__ import annotations

from fastapi import APIRouter

from server.access.dependencies import ReadableRun
from server.parts import Serving
from server.predictions import service
from server.predictions.schemas import Predictions

router = APIRouter(tags=["predictions"])


@router.get("/runs/{run_id}/predictions")
async def show_predictions(run: ReadableRun, parts: Serving) -> Predictions:
    """Theory's curves: the first revision is at initialisation, the last is today's."""
    return await service.show(parts.database, run["id"])
