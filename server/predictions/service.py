"""Store model specs, and show the predictions that follow from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import structlog
import zstandard

import dslm
from server.app_state import AppState
from server.bus import BusFull
from server.bus.protocol import SPECS
from server.database import Database, Row
from server.errors import InvalidField, RevisionNotFound
from server.predictions.repository import PredictionRepository
from server.predictions.schemas import (
    CurveAnswer,
    Label,
    PredictionAnswer,
    Predictions,
    SpecAnswer,
    StackCurves,
)
from server.runs.schemas import MissingInfo
from server.vectors import to_f32

MAX_STEP = 2**53

log = structlog.get_logger(__name__)


async def revise(state: AppState, run_id: str, step: int, spec: dict[str, Any]) -> None:
    """Store a spec for a step and have its prediction computed; again is the same."""
    if not 0 <= step <= MAX_STEP:
        raise InvalidField(f"step {step} is out of range", field="step", fix="count steps from 0")
    packed = msgspec.json.encode(spec)
    digest = hashlib.blake2b(packed, digest_size=16).hexdigest()
    async with state.database.writing() as session:
        repository = PredictionRepository(session)
        if await repository.has_digest(run_id, digest):
            return
        compressed = zstandard.compress(packed)
        await repository.put(run_id, step, digest, compressed, state.clock())
    try:
        await state.bus.append(SPECS, run_id.encode())
    except (OSError, BusFull) as error:  # the predictor also looks by itself
        log.warning("predictor_not_told", error=repr(error))


def unpack_spec(packed: bytes) -> dict[str, Any]:
    """The JSON form of a stored spec."""
    return msgspec.json.decode(zstandard.decompress(packed), type=dict[str, Any])


async def show(database: Database, run_id: str) -> Predictions:
    """Every prediction of a run."""
    async with database.reading() as session:
        rows = await PredictionRepository(session).of_run(run_id)
    return Predictions(revisions=[_answer(row, index) for index, row in enumerate(rows)])


async def spec(database: Database, run_id: str, step: int | None) -> SpecAnswer:
    """The description of the model at a revision's step; the newest for None.

    Raises:
        RevisionNotFound: if there is none.
    """
    async with database.reading() as session:
        repository = PredictionRepository(session)
        steps = await repository.steps(run_id)
        wanted = step if step is not None or not steps else steps[-1]
        packed = None if wanted is None else await repository.spec(run_id, wanted)
    if wanted is None or packed is None:
        raise RevisionNotFound(run_id, steps)
    label = _label(steps.index(wanted))
    return SpecAnswer(step=wanted, label=label, spec=unpack_spec(packed))


async def at_initialisation(database: Database, run_id: str) -> dslm.Prediction | None:
    """The prediction from the run's first weights, once it is ready."""
    async with database.reading() as session:
        row = await PredictionRepository(session).first_ready(run_id)
    return None if row is None else dslm.prediction_from_json(row["prediction"])


def ready(rows: Sequence[Row]) -> dict[int, dslm.Prediction]:
    """The predictions among these rows, by step."""
    return {
        row["step"]: dslm.prediction_from_json(row["prediction"])
        for row in rows
        if row["state"] == "ready"
    }


def _answer(row: Row, index: int) -> PredictionAnswer:
    found = None if row["prediction"] is None else dslm.prediction_from_json(row["prediction"])
    stacks = {} if found is None else found.stacks
    missing = () if found is None else found.missing
    return PredictionAnswer(
        step=row["step"],
        label=_label(index),
        state=row["state"],
        reason=row["reason"],
        stacks={name: _curves(one) for name, one in stacks.items()},
        missing=[MissingInfo(where=m.where, what=m.what, why=m.why) for m in missing],
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
    names = ("variance", "variance_low", "variance_high")
    more = ("correlation", "correlation_low", "correlation_high")
    values = {f"{name}_f32": to_f32(np.asarray(getattr(curve, name))) for name in names + more}
    return CurveAnswer(**values)
