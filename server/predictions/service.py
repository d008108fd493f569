"""Store model specs, and show the predictions that follow from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
import zstandard

import dslm
from server.app_state import AppState
from server.bus import BusFull
from server.bus.protocol import SPECS
from server.database import Database
from server.errors import InvalidField, RevisionNotFound
from server.predictions.repository import PredictionRepository
from server.predictions.rows import PredictionRow
from server.predictions.schemas import (
    CurveAnswer,
    Label,
    PredictionAnswer,
    Predictions,
    SpecAnswer,
    StackCurves,
)
from server.runs.repository import RunRepository
from server.schemas import MissingInfo
from server.vectors import to_f32

MAX_STEP = 2**53
FLOWS = "flows"  # the field of a stored spec that neither predictions nor `GET /spec` read

log = structlog.get_logger(__name__)


async def revise(
    state: AppState,
    run_id: str,
    step: int,
    spec: dict[str, Any],
    flows: dict[str, Any] | None = None,
) -> None:
    """Store a spec for a step and have its prediction computed; again is the same.

    `flows` are what was measured inside the blocks in that step, where anything was.

    Raises:
        InvalidField: if the step is out of range.
    """
    if not 0 <= step <= MAX_STEP:
        raise InvalidField(f"step {step} is out of range", field="step", fix="count steps from 0")
    packed = msgspec.json.encode({**spec, FLOWS: flows} if flows else spec)
    digest = hashlib.blake2b(packed, digest_size=16).hexdigest()
    async with state.database.writing() as session:
        repository = PredictionRepository(session)
        # An agent declares again whenever it reconnects: the same spec must not move its step.
        if await repository.has_digest(run_id, digest):
            return
        compressed = zstandard.compress(packed)
        await repository.put(run_id, step, digest, compressed, state.clock())
    try:
        await state.bus.append(SPECS, run_id)
    except (OSError, BusFull) as error:  # the predictor also polls the database
        log.warning("predictor_not_notified", error=repr(error))


def unpack_spec(packed: bytes) -> dict[str, Any]:
    """The JSON form of a stored spec, without its flows: older readers refuse what is new."""
    spec = unpack_described(packed)
    spec.pop(FLOWS, None)
    return spec


def unpack_described(packed: bytes) -> dict[str, Any]:
    """The JSON form of a stored spec and its flows."""
    return msgspec.json.decode(zstandard.decompress(packed), type=dict[str, Any])


async def show(database: Database, run_id: str, step: int | None = None) -> Predictions:
    """Every prediction of a run, or the one that held at a step: of the last revision up to it.

    Before the first revision it is the first one's: training has not moved the weights far.
    """
    async with database.reading() as session:
        repository = PredictionRepository(session)
        if step is None:
            rows = await repository.of_run(run_id)
            return Predictions(revisions=[_answer(row, index) for index, row in enumerate(rows)])
        first, row = await repository.first_head(run_id), await repository.at(run_id, step)
    if first is None or row is None:
        return Predictions(revisions=[])
    return Predictions(revisions=[_answer(row, int(row.step != first.step))])


async def spec(database: Database, run_id: str, step: int | None) -> SpecAnswer:
    """The description of the model at a revision's step; the newest for None.

    Raises:
        RevisionNotFound: if there is none.
    """
    async with database.reading() as session:
        steps = await RunRepository(session).revision_steps(run_id)
        revision = step if step is not None or not steps else steps[-1]
        repository = PredictionRepository(session)
        packed = None if revision is None else await repository.spec(run_id, revision)
    if revision is None or packed is None:
        raise RevisionNotFound(run_id, steps)
    label = _label(steps.index(revision))  # by its place: the first revision need not be step 0
    return SpecAnswer(step=revision, label=label, spec=unpack_spec(packed))


async def at_initialisation(database: Database, run_id: str) -> dslm.Prediction | None:
    """The prediction from the run's first weights, once it is ready."""
    async with database.reading() as session:
        row = await PredictionRepository(session).first(run_id)
    return None if row is None else _prediction(row)


def ready(rows: Sequence[PredictionRow]) -> dict[int, dslm.Prediction]:
    """The predictions among these rows, by step."""
    predictions = {row.step: _prediction(row) for row in rows}
    return {step: prediction for step, prediction in predictions.items() if prediction is not None}


def _prediction(row: PredictionRow) -> dslm.Prediction | None:
    return None if row.prediction is None else dslm.prediction_from_json(row.prediction)


def _answer(row: PredictionRow, index: int) -> PredictionAnswer:
    prediction = _prediction(row)
    stacks = {} if prediction is None else prediction.stacks
    missing = () if prediction is None else prediction.missing
    return PredictionAnswer(
        step=row.step,
        label=_label(index),
        state=row.state,
        reason=row.reason,
        stacks={name: _curves(stack) for name, stack in stacks.items()},
        missing=[MissingInfo(where=part.where, what=part.what, why=part.why) for part in missing],
    )


def _label(index: int) -> Label:
    return "at initialisation" if index == 0 else "from today's weights"


def _curves(stack: dslm.StackPrediction) -> StackCurves:
    return StackCurves(
        stream=_curve(stack.forward),
        stream_gradient=_curve(stack.backward),
        gradient_scale=_finite(stack.gradient_scale),
        logit_variance=_finite(stack.logit_variance),
        loss=_finite(stack.loss),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curve(curve: dslm.Curve) -> CurveAnswer:
    return CurveAnswer(
        variance_f32=to_f32(curve.variance),
        variance_low_f32=to_f32(curve.variance_low),
        variance_high_f32=to_f32(curve.variance_high),
        correlation_f32=to_f32(curve.correlation),
        correlation_low_f32=to_f32(curve.correlation_low),
        correlation_high_f32=to_f32(curve.correlation_high),
    )
