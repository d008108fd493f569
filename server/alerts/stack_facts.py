"""A run's model and theory's curves as the rules read them, from what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

import dslm
from server.alerts.rules import StackFacts, facts
from server.predictions.repository import PredictionRepository
from server.predictions.rows import PredictionRow
from server.predictions.service import ready, unpack_spec


async def read_facts(session: AsyncSession, run_id: str, step: int) -> Mapping[str, StackFacts]:
    """The facts of a run whose first description is of this step; none where it has none."""
    repository = PredictionRepository(session)
    packed = await repository.spec(run_id, step)
    predictions = await repository.of_run(run_id)
    return await asyncio.to_thread(_facts, packed, predictions)


def _facts(packed: bytes | None, predictions: Sequence[PredictionRow]) -> Mapping[str, StackFacts]:
    if packed is None:
        return {}
    try:
        spec = dslm.spec_from_json(unpack_spec(packed))
    except dslm.SpecError:
        return {}  # the run's failed prediction gives the reason
    return facts(spec, ready(predictions))
