"""What was measured: by step, by series, or everything."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from server.app_state import State
from server.profiles import service
from server.profiles.derived.schemas import AheadAnswer
from server.profiles.derived.service import show_ahead
from server.profiles.schemas import History, Profile, Scalars, Steps
from server.runs.dependencies import ReadableRun
from server.storage.measurements import ANY_STEP

router = APIRouter(tags=["measurements"])

Step = Annotated[int, Query(ge=0, le=ANY_STEP)]
After = Annotated[int, Query(ge=-1, le=ANY_STEP)]
MaxSteps = Annotated[int, Query(ge=1, le=10_000)]


@router.get("/runs/{run_id}/steps")
async def list_steps(run: ReadableRun, state: State, after: After = -1) -> Steps:
    """The sampled steps past `after`, ascending, each once."""
    return await service.steps(state.database, run.id, after)


@router.get("/runs/{run_id}/profile")
async def show_profile(
    run: ReadableRun, state: State, step: Step | None = None, *, derived: bool = True
) -> Profile:
    """Everything measured at the sampled step nearest to `step` from below, and derived of it."""
    return await service.profile(state.database, run.id, step, derived=derived)


@router.get("/runs/{run_id}/ahead")
async def show_departures(run: ReadableRun, state: State, step: Step | None = None) -> AheadAnswer:
    """Which blocks depart from what they did in the samples before, up to a step."""
    return await show_ahead(state.database, run.id, step)


@router.get("/runs/{run_id}/history")
async def show_history(
    run: ReadableRun,
    state: State,
    *,
    series: str,
    first: Annotated[int, Query(alias="from", ge=0, le=ANY_STEP)] = 0,
    last: Annotated[int, Query(alias="to", ge=0, le=ANY_STEP)] = ANY_STEP,
    max_steps: MaxSteps = 250,
    summary: Literal["min", "mean", "max"] | None = None,
) -> History:
    """One series over steps: every layer, beside theory at initialisation."""
    steps = {"first": first, "last": last, "most": max_steps}
    return await service.history(state.database, run.id, series, **steps, summary=summary)


@router.get("/runs/{run_id}/scalars")
async def show_scalars(
    run: ReadableRun,
    state: State,
    series: Annotated[list[str], Query(min_length=1, max_length=50)],
    after: After = -1,
    max_steps: MaxSteps = 1000,
) -> Scalars:
    """Loss, learning rate and other series of length 1, evenly thinned."""
    return await service.scalars(state.database, run.id, series, after=after, most=max_steps)
