"""Derived series over the steps of a run: each step with the samples before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession

from dslm.ahead import WINDOW
from server.profiles.derived.compute import derive
from server.profiles.derived.model_facts import ModelFacts
from server.profiles.derived.names import DerivedSeries
from server.storage.downsample import Steps
from server.storage.measurements import read, sampled_steps, steps_up_to
from wire import Layout

STEPS_A_PART = 2048  # steps whose samples are in memory at once
Derived = dict[str, NDArray[np.float32]]


async def read_derived(
    session: AsyncSession,
    run_id: str,
    layouts: Mapping[str, Layout],
    steps: Steps,
    *,
    series: Sequence[DerivedSeries],
    facts: ModelFacts,
) -> Derived:
    """These series at these sampled steps, ascending; float32 (steps, n) by key."""
    parts: list[Derived] = []
    for start in range(0, len(steps), STEPS_A_PART):
        part = steps[start : start + STEPS_A_PART]
        window = await _with_samples_before(session, run_id, part)
        keys = sorted({key for each in series for key in each.needs})
        measured = await read(session, run_id, layouts, window, keys)
        parts.append(derive(measured, np.searchsorted(window, part), series, facts))
    if not parts:
        return {each.key: np.empty((0, each.n), np.float32) for each in series}
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


async def _with_samples_before(session: AsyncSession, run_id: str, steps: Steps) -> Steps:
    """The steps, and before each of them the `WINDOW` samples that its expectation reads."""
    lead = await steps_up_to(session, run_id, int(steps[0]), WINDOW + 1)
    between = await sampled_steps(session, run_id, after=int(steps[0]), last=int(steps[-1]))
    sampled = np.concatenate([lead, between])
    at = np.searchsorted(sampled, steps)
    read_too = np.zeros(len(sampled), dtype=np.bool_)
    for age in range(WINDOW + 1):
        read_too[np.maximum(at - age, 0)] = True
    return sampled[read_too]
