"""Rules on steps of the loss: upwards, and below zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.alerts.rules import Observation, RunningStats, StackFacts
from server.alerts.rules.loss import loss_rise, loss_sign
from server.alerts.rules.running_stats import LAST_LOSSES, LOSSES_BEFORE, updated
from tests.server.alerts.conftest import Diagnosis, Run

ENOUGH = LAST_LOSSES + LOSSES_BEFORE


def seen(losses: np.ndarray, inputs: np.ndarray | None = None) -> tuple[Observation, RunningStats]:
    """The last observation of these losses, and the stats after it."""
    stats = RunningStats()
    for step, loss in enumerate(losses):
        values = {"/loss/value": np.array([loss])}
        if inputs is not None:
            values["decoder/stream/variance"] = np.full(3, np.exp(inputs[step]))
            values["decoder/stream/correlation"] = np.full(3, 0.3 + inputs[step])
        observation = Observation(step, values, {"decoder": StackFacts(2)})
        stats = updated(stats, observation)
    return observation, stats


def stepping(rise: float, *, noise: float = 0.1, seed: int = 0, before: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = np.concatenate([np.full(before, 2.6), np.full(LAST_LOSSES, 2.6 + rise)])
    return level + noise * rng.standard_normal(len(level))


def test_a_step_of_the_loss_is_found_that_its_single_values_hide():
    (finding,) = loss_rise(*seen(stepping(0.35)))

    assert finding.severity == "warning" and finding.badness == pytest.approx(0.35, abs=0.1)
    assert "a median of 2.9" in finding.message and "had 2.6" in finding.message


@settings(max_examples=80)
@given(
    noise=st.floats(0.01, 0.3),
    fall=st.floats(0.0, 0.02),
    seed=st.integers(0, 10_000),
)
def test_noise_around_a_falling_loss_is_no_finding(noise: float, fall: float, seed: int):
    rng = np.random.default_rng(seed)
    losses = 4.0 - fall * np.arange(ENOUGH) + noise * rng.standard_normal(ENOUGH)

    assert loss_rise(*seen(losses)) == []


def test_the_finding_lasts_while_the_loss_stays_up_and_ends_when_it_is_back():
    rng = np.random.default_rng(0)
    risen = np.concatenate([stepping(0.5), 3.1 + 0.1 * rng.standard_normal(150)])

    assert len(loss_rise(*seen(risen))) == 1
    back = np.concatenate([risen, 2.6 + 0.1 * rng.standard_normal(LAST_LOSSES)])
    assert loss_rise(*seen(back)) == []


def test_the_advice_says_whether_the_inputs_have_moved_too():
    losses = stepping(0.5)
    rng = np.random.default_rng(1)
    inputs = 0.01 * rng.standard_normal(len(losses))
    (as_before,) = loss_rise(*seen(losses, inputs))
    inputs[-LAST_LOSSES:] += 0.2
    (moved,) = loss_rise(*seen(losses, inputs))

    assert "look at the labels" in as_before.advice.text
    assert "look at the data" in moved.advice.text


def test_a_loss_that_starts_at_zero_and_grows_by_design_is_no_finding():
    rng = np.random.default_rng(0)
    losses = np.concatenate([np.zeros(40), 0.01 * np.arange(60)]) + 0.001 * rng.random(100)

    assert loss_rise(*seen(losses - 0.0005)) == []


def test_one_bad_batch_is_no_step():
    losses = stepping(0.0)
    losses[-3] = 30.0

    assert loss_rise(*seen(losses)) == []


def test_a_loss_whose_sign_was_turned_is_found():
    losses = np.concatenate([stepping(0.0), -2.6 - 0.5 * np.arange(5)])

    (finding,) = loss_sign(*seen(losses))

    assert finding.severity == "critical" and "sign" in finding.advice.text


def test_a_density_that_falls_below_zero_bit_by_bit_is_no_finding():
    losses = np.linspace(0.5, -0.06, 60)

    assert loss_sign(*seen(losses)) == []


def test_losses_that_were_negative_before_are_no_finding():
    assert loss_sign(*seen(np.full(60, -2.0))) == []


def test_healthy_runs_raise_neither(runs: dict[str, Run], diagnose):
    for name, run in runs.items():
        if "rate" in name or "half" in name:
            continue
        diagnosis: Diagnosis = diagnose(run)
        assert not {"loss_rise", "loss_sign"} & {e.key.rule for e in diagnosis.events}, name
