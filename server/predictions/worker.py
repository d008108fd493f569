"""The predictor: computes what specs ask for, in a thread, and publishes that it is there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog

import dslm
from server.app_state import AppState
from server.bus.protocol import PREDICTOR, SPECS
from server.events import PredictionEvent, RunEvent, publish
from server.predictions.architecture import run_columns
from server.predictions.repository import PredictionRepository
from server.predictions.rows import RevisionRow
from server.predictions.service import unpack_spec
from server.runs.repository import RunRepository

WAIT_S = 2.0  # also how soon a spec is predicted whose message was lost
SPECS_A_TURN = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a spec changes: columns of `predictions`, and columns of `runs`.

    `run` is empty when the spec cannot be read.
    """

    prediction: dict[str, Any]
    run: dict[str, Any]


async def predict(state: AppState) -> None:
    """One turn: compute every pending prediction; the database says which those are."""
    messages = await state.bus.read(SPECS, PREDICTOR, count=64, wait_s=WAIT_S)
    await predict_pending(state)
    await state.bus.acknowledge(SPECS, PREDICTOR, [message.id for message in messages])


async def predict_pending(state: AppState) -> None:
    """Compute and store predictions until none is pending."""
    while True:
        async with state.database.reading() as session:
            revisions = await PredictionRepository(session).pending(SPECS_A_TURN)
        if not revisions:
            return
        for revision in revisions:
            # A deep model takes seconds, during which the loop serves requests.
            outcome = await asyncio.to_thread(outcome_of, revision.spec)
            await _store(state, revision, outcome)


def outcome_of(packed: bytes) -> Outcome:
    """Theory's answer to a packed spec; a spec it cannot read is an answer too."""
    run: dict[str, Any] = {}
    try:
        spec = dslm.spec_from_json(unpack_spec(packed))
        run = run_columns(spec)
        prediction = dslm.prediction_to_json(dslm.predict(spec))
    except Exception as error:  # a spec that always fails must not hold up the others for ever
        log.warning("prediction_failed", error=repr(error))
        reason = str(error) or type(error).__name__
        return Outcome({"state": "failed", "reason": reason, "prediction": None}, run)
    return Outcome({"state": "ready", "reason": "", "prediction": prediction}, run)


async def _store(state: AppState, revision: RevisionRow, outcome: Outcome) -> None:
    run_id, step = revision.run_id, revision.step
    async with state.database.writing() as session:
        await PredictionRepository(session).settle(
            run_id, step, revision.digest, **outcome.prediction
        )
        runs = RunRepository(session)
        # The run list names the model as it was at initialisation.
        if outcome.run and step == (await runs.revision_steps(run_id))[0]:
            await runs.change(run_id, **outcome.run)
    await publish(state.bus, [PredictionEvent(run_id, step), RunEvent(run_id)])
