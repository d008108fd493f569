"""300 random training jobs come out the same with the agent beside them, to the bit."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.harmless.__main__ import changed
from benchmarks.harmless.recipe import drawn

SHARDS, JOBS = 6, 50  # so that several workers share them
SEEDS = 2**24


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_random_job_is_the_same_with_the_agent(shard: int) -> None:
    @settings(max_examples=JOBS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(shard * SEEDS, (shard + 1) * SEEDS - 1))
    def same(seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the job's own
            assert changed(drawn(seed)) == []

    same()


def test_the_comparison_notices_what_an_agent_may_change() -> None:
    from benchmarks.harmless.compare import differences
    from benchmarks.harmless.job import run

    recipes = (recipe for recipe in map(drawn, range(100)) if recipe.family == "home_made")
    recipe = next(recipe for recipe in recipes if recipe.checkpointing == "none")
    bare, other = run(recipe, None), run(recipe, None)
    assert differences(bare, other) == []

    other.state["blocks.0.calls"] += 1
    other.state["random of Python"] = (3, (), None)
    other.calls.update(["forward"])

    assert len(differences(bare, other)) == 3
