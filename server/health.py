"""Whether this process is up, whether it can serve, and what it has counted."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from server.bus.protocol import FRAMES
from server.parts import Parts, Serving

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is up."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(parts: Serving) -> Response:
    """Database and bus answer."""
    found = {"database": await _database(parts), "bus": await _bus(parts)}
    ready = all(state == "ok" for state in found.values())
    return JSONResponse(found, status_code=200 if ready else 503)


@router.get("/metrics")
async def metrics(parts: Serving) -> Response:
    """Counters in Prometheus' text format."""
    if await _bus(parts) == "ok":
        parts.metrics.bus_pending.set(await parts.bus.pending(FRAMES))
    return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _database(parts: Parts) -> str:
    try:
        await parts.database.ping()
    except (SQLAlchemyError, OSError) as error:
        return f"does not answer: {type(error).__name__}"
    return "ok"


async def _bus(parts: Parts) -> str:
    try:
        await parts.bus.ping()
    except OSError as error:
        return f"does not answer: {type(error).__name__}"
    return "ok"
