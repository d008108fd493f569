"""One block ahead of the newest samples: earlier answers are used again where they hold."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dslm.ahead import WINDOW, Ahead
from server.profiles.derived.model_facts import ModelFacts
from server.profiles.derived.recent import recent_ahead
from server.storage.measurements import Measured

BACK = 40  # rows asked for
STREAM, CORRELATION, GRADIENT = (
    "decoder/stream/variance",
    "decoder/stream/correlation",
    "decoder/stream_gradient/variance",
)


def sampled(n: int, rng: np.random.Generator) -> Measured:
    walk = rng.normal(0, 0.1, (n, 5)).cumsum(axis=1)
    walk[rng.integers(n, size=3), rng.integers(5, size=3)] = np.nan
    values = {STREAM: np.exp(walk), CORRELATION: np.tanh(walk), GRADIENT: np.exp(-walk)}
    series = {key: v.astype(np.float32) for key, v in values.items()}
    return Measured(3 * np.arange(n), np.zeros(n), series)


def newest(measured: Measured, n: int) -> tuple[Measured, np.ndarray]:
    """The last samples among the first n, as the server reads them, and the rows asked for."""
    start = max(0, n - BACK - WINDOW)
    cut = {key: v[start:n].copy() for key, v in measured.series.items()}
    part = Measured(measured.steps[start:n], measured.times[start:n], cut)
    return part, np.arange(max(0, n - start - BACK), n - start)


def check(followed: Ahead, alone: Ahead) -> None:
    for each in fields(Ahead):
        np.testing.assert_array_equal(getattr(followed, each.name), getattr(alone, each.name))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    ends=st.lists(st.integers(1, 200), min_size=2, max_size=6),
    changes=st.booleans(),
)
def test_answers_are_those_of_a_server_that_was_asked_for_the_first_time(
    seed: int, ends: list[int], changes: bool
) -> None:
    rng = np.random.default_rng(seed)
    measured, facts = sampled(200, rng), ModelFacts()

    for number, n in enumerate(ends):
        if changes and number == 1:  # a step recorded again after a restart
            measured.series[STREAM][ends[0] // 2] *= 2
        part, rows = newest(measured, n)
        run = f"{seed} {ends} {changes}"
        followed = recent_ahead(run, ["decoder"], part, rows, facts)
        alone = recent_ahead(f"{run} {number}", ["decoder"], part, rows, facts)
        for name, ahead in alone["decoder"].items():
            check(followed["decoder"][name], ahead)
