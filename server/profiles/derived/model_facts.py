"""What derived series need of a run's model: theory's curves, and how its blocks add up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

import dslm
from dslm import Block, Placement
from server.database import Database
from server.predictions.repository import PredictionRepository
from server.predictions.service import unpack_spec

Floats = NDArray[np.float64]
CACHED = 64  # models


@dataclass(frozen=True, slots=True)
class Sums:
    """How the blocks of a stack add their branches, each (N,); NaN where it is not known.

    Attributes:
        placement: where the norms stand; None where the block is not understood, or has a
            cross-attention between its branches.
        attention_lam, feed_forward_lam: the stream's scales in the two sums.
        attention_p_drop, feed_forward_p_drop: dropout between a branch and its sum.
    """

    placement: tuple[Placement | None, ...]
    attention_lam: Floats
    feed_forward_lam: Floats
    attention_p_drop: Floats
    feed_forward_p_drop: Floats


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Of the run's first description; empty where there is none yet.

    Attributes:
        theory: theory's curves at initialisation, by the key of the measured series.
        sums: by stack.
    """

    theory: Mapping[str, Floats] = field(default_factory=dict)
    sums: Mapping[str, Sums] = field(default_factory=dict)

    def curve(self, key: str, values: Floats) -> Floats | None:
        """Theory's curve for a series (steps, n), where it has one of that length."""
        curve = self.theory.get(key)
        return curve if curve is not None and len(curve) == values.shape[1] else None


_cache: OrderedDict[tuple[str, bool], ModelFacts] = OrderedDict()
_lock = Lock()


async def model_facts(database: Database, run_id: str) -> ModelFacts:
    """The facts of a run's first revision, computed once for each of the last `CACHED` models."""
    async with database.reading() as session:
        repository = PredictionRepository(session)
        head = await repository.first_head(run_id)
        if head is None:
            return ModelFacts()
        key = (head.digest, head.state == "ready")
        with _lock:
            if key in _cache:
                _cache.move_to_end(key)
                return _cache[key]
        row = await repository.first(run_id)
        packed = await repository.spec(run_id, head.step)
    if row is None or packed is None:
        return ModelFacts()
    prediction = None if row.prediction is None else dslm.prediction_from_json(row.prediction)
    try:
        spec = dslm.spec_from_json(unpack_spec(packed))
    except dslm.SpecError:  # of an agent that describes what this server does not know
        return ModelFacts(theory=_theory(prediction))
    facts = ModelFacts(_theory(prediction), {n: sums_of(s.blocks) for n, s in spec.stacks.items()})
    with _lock:
        _cache[key] = facts
        while len(_cache) > CACHED:
            _cache.popitem(last=False)
    return facts


def _theory(prediction: dslm.Prediction | None) -> dict[str, Floats]:
    curves: dict[str, Floats] = {}
    for name, stack in ({} if prediction is None else prediction.stacks).items():
        curves[f"{name}/stream/variance"] = stack.forward.variance
        curves[f"{name}/stream/correlation"] = stack.forward.correlation
        curves[f"{name}/stream_gradient/variance"] = stack.backward.variance
    return curves


def sums_of(blocks: tuple[Block | None, ...]) -> Sums:
    """How the blocks of a described stack add their branches."""
    residuals = [
        (np.nan, np.nan, np.nan, np.nan)
        if block is None
        else (
            block.attention_residual.lam,
            block.feed_forward_residual.lam,
            block.attention_residual.p_drop,
            block.feed_forward_residual.p_drop,
        )
        for block in blocks
    ]
    columns = np.array(residuals, dtype=np.float64).reshape(-1, 4).T
    placement = tuple(
        None if block is None or block.cross is not None else block.placement for block in blocks
    )
    return Sums(placement, *columns)
