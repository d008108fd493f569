"""Rules on what enters the first block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.alerts.rules import Observation, RunningStats, StackFacts, evaluate
from server.alerts.rules.inputs import alike_tokens, repeated_batch
from server.alerts.rules.running_stats import BEFORE, NEWEST, updated
from tests.server.alerts.conftest import Diagnosis, Run

NOTHING = RunningStats()


def entering(step: int, variance: float, correlation: float) -> Observation:
    depth = np.linspace(0, 0.2, 5)
    values = {
        "decoder/stream/variance": variance * (1 + depth),
        "decoder/stream/correlation": np.minimum(correlation + depth, 1.0),
        "decoder/stream_gradient/variance": np.full(5, 1e-6),
    }
    return Observation(step, values, {"decoder": StackFacts(n_layers=4)})


def batches(n: int, *, noise: float, drift: float = 0.0, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    variances = np.exp(noise * rng.standard_normal(n) + drift * np.arange(n))
    correlations = 0.3 + noise * rng.standard_normal(n) + drift * np.arange(n)
    return [
        entering(at, v, c) for at, (v, c) in enumerate(zip(variances, correlations, strict=True))
    ]


def after(observations: list[Observation]) -> RunningStats:
    stats = NOTHING
    for observation in observations:
        stats = updated(stats, observation)
    return stats


def test_a_batch_that_no_longer_changes_is_found_while_the_embedding_drifts():
    changing = batches(BEFORE, noise=0.01, drift=1e-3)
    repeated = batches(NEWEST, noise=0.0, drift=1e-3)

    (finding,) = repeated_batch(repeated[-1], after(changing + repeated))

    assert (finding.stack, finding.first_layer, finding.severity) == ("decoder", 0, "warning")
    assert "the same data" in finding.message and "data loader" in finding.advice.text


@settings(max_examples=50)
@given(
    noise=st.floats(1e-4, 0.1),
    drift=st.floats(-1e-3, 1e-3),
    calmer=st.floats(0.2, 5.0),
    seed=st.integers(0, 1000),
)
def test_batches_that_go_on_changing_are_no_finding(
    noise: float, drift: float, calmer: float, seed: int
):
    observations = batches(BEFORE, noise=noise, drift=drift, seed=seed)
    observations += batches(NEWEST, noise=noise * calmer, drift=drift, seed=seed + 1)

    assert repeated_batch(observations[-1], after(observations)) == []


def test_a_repeated_batch_stays_found_until_batches_change_again():
    observations = batches(BEFORE, noise=0.01) + batches(100, noise=0.0)

    assert len(repeated_batch(observations[-1], after(observations))) == 1
    observations += batches(NEWEST, noise=0.01)
    assert repeated_batch(observations[-1], after(observations)) == []


def test_one_batch_from_the_start_is_how_a_test_overfits_and_no_finding():
    observations = batches(NEWEST + BEFORE, noise=0.0)

    assert repeated_batch(observations[-1], after(observations)) == []


def test_too_few_samples_say_nothing():
    observations = batches(BEFORE - 1, noise=0.01) + batches(NEWEST, noise=0.0)

    assert repeated_batch(observations[-1], after(observations)) == []


@pytest.mark.parametrize(("correlation", "holds"), [(0.9, False), (0.998, False), (0.9995, True)])
def test_tokens_that_enter_as_one_vector_are_found(correlation: float, holds: bool):
    findings = alike_tokens(entering(3, 1.0, correlation), NOTHING)

    assert [finding.measured for finding in findings] == [correlation] * holds
    if holds:
        assert "1 − 5.0·10⁻⁴" in findings[0].message


def test_tokens_that_enter_alike_are_no_rank_collapse():
    collapsed = entering(3, 1.0, 0.9999)
    collapsed.values["decoder/stream/correlation"][:] = 0.9999
    collapsed.values["decoder/stream_gradient/variance"][:] = [1e-12, 1e-11, 1e-10, 1e-9, 1e-6]

    rules = {finding.rule for finding in evaluate(collapsed, NOTHING).findings}

    assert "alike_tokens" in rules and "rank_collapse" not in rules


def test_healthy_runs_raise_neither(runs: dict[str, Run], diagnose):
    for run in runs.values():
        diagnosis: Diagnosis = diagnose(run)
        assert not {"repeated_batch", "alike_tokens"} & {e.key.rule for e in diagnosis.events}
