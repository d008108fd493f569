"""Whether this process is up, whether it can serve, and what it has counted."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.app_state import AppState, State
from server.bus.protocol import FRAMES
from server.probe import ANSWER_S

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is up."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(state: State) -> Response:
    """Database and bus answer, and there is room to store; told within a second."""
    database, bus = await asyncio.gather(state.probe.database(), _bus(state))
    checks = {"database": database, "bus": bus, "disk": state.probe.disk()}
    ready = all(result == "ok" for result in checks.values())
    return JSONResponse(checks, status_code=200 if ready else 503)


@router.get("/metrics")
async def metrics(state: State) -> Response:
    """Counters in Prometheus' text format."""
    # A bus that is away must not take the other counters with it.
    if await _bus(state) == "ok":
        state.metrics.bus_pending.set(await state.bus.pending(FRAMES))
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _bus(state: AppState) -> str:
    try:
        await asyncio.wait_for(state.bus.ping(), ANSWER_S)
    except OSError as error:
        return f"does not answer: {type(error).__name__}"
    return "ok"
