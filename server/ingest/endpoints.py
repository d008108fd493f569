"""The endpoints that an agent calls."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Response

from server.access.dependencies import Ingester
from server.app_state import State
from server.ingest import body, service
from server.runs.dependencies import RunId, WritableRun
from wire import RunDeclaration, RunEnd, SpecRevision

router = APIRouter(tags=["agent"])

Declaration = Annotated[RunDeclaration, Depends(body.message(RunDeclaration))]
Revision = Annotated[SpecRevision, Depends(body.message(SpecRevision))]
Ending = Annotated[RunEnd, Depends(body.message(RunEnd))]
Frames = Annotated[bytes, Depends(body.frames)]


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")


@router.put("/runs/{run_id}", openapi_extra=body.described(RunDeclaration))
async def declare_run(
    run_id: RunId, caller: Ingester, state: State, declaration: Declaration
) -> Response:
    """Declare a run, its layout and its model; again is the same."""
    return _json(await service.declare(state, caller, run_id, declaration))


@router.put("/runs/{run_id}/spec", status_code=204, openapi_extra=body.described(SpecRevision))
async def revise_spec(run: WritableRun, state: State, revision: Revision) -> Response:
    """Describe the model at a step; its prediction is computed in the background."""
    await service.revise(state, run, revision)
    return Response(status_code=204)


@router.post("/runs/{run_id}/frames", openapi_extra=body.FRAMES_DESCRIBED)
async def ingest_frames(run: WritableRun, state: State, frames: Frames) -> Response:
    """Take a batch of frames, all or none, and answer with the rank's ack watermark."""
    return _json(await service.accept(state, run, frames))


@router.post("/runs/{run_id}/end", status_code=204, openapi_extra=body.described(RunEnd))
async def end_run(run: WritableRun, state: State, ending: Ending) -> Response:
    """Note how the run ended."""
    await service.end(state, run, ending)
    return Response(status_code=204)
