"""The predictor: computes what specs ask for, in a thread, and tells open pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog

import dslm
from server.app_state import AppState
from server.bus.protocol import PREDICTOR, SPECS
from server.database import Row
from server.events import PredictionEvent, RunEvent, publish
from server.predictions.architecture import described
from server.predictions.repository import PredictionRepository
from server.predictions.service import unpack_spec
from server.runs.repository import RunRepository

WAIT_S = 2.0  # also how soon a spec is found whose message was lost
SPECS_A_TURN = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one spec."""

    columns: dict[str, Any]  # of `predictions`
    described: dict[str, Any]  # of `runs`; empty when the spec cannot be read


async def predict(state: AppState) -> None:
    """One turn: compute every pending prediction; the database says which those are."""
    entries = await state.bus.read(SPECS, PREDICTOR, count=64, wait_s=WAIT_S)
    await predict_pending(state)
    await state.bus.acknowledge(SPECS, PREDICTOR, [entry.id for entry in entries])


async def predict_pending(state: AppState) -> None:
    """Compute and store predictions until none is pending."""
    while True:
        async with state.database.reading() as session:
            rows = await PredictionRepository(session).pending(SPECS_A_TURN)
        if not rows:
            return
        for row in rows:
            outcome = await asyncio.to_thread(outcome_of, row["spec"])
            await _store(state, row, outcome)


def outcome_of(packed: bytes) -> Outcome:
    """Theory's answer to a packed spec; a spec it cannot read is an answer too."""
    about: dict[str, Any] = {}
    try:
        spec = dslm.spec_from_json(unpack_spec(packed))
        about = described(spec)
        prediction = dslm.prediction_to_json(dslm.predict(spec))
    except Exception as error:  # the worker loop: one spec must not stop the others for ever
        log.warning("prediction_failed", error=repr(error))
        reason = str(error) or type(error).__name__
        return Outcome({"state": "failed", "reason": reason, "prediction": None}, about)
    return Outcome({"state": "ready", "reason": "", "prediction": prediction}, about)


async def _store(state: AppState, row: Row, outcome: Outcome) -> None:
    run_id, step = row["run_id"], row["step"]
    async with state.database.writing() as session:
        repository = PredictionRepository(session)
        await repository.settle(run_id, step, row["digest"], **outcome.columns)
        if outcome.described and step == (await repository.steps(run_id))[0]:
            await RunRepository(session).change(run_id, **outcome.described)
    await publish(state.bus, [PredictionEvent(run_id, step), RunEvent(run_id)])
