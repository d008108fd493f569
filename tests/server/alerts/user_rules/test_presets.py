"""Other tools' rules, at their defaults, against plain readings of what they publish."""

from __future__ import annotations

import numpy as np
import pytest

from server.alerts.rules import Observation, RunningStats, Verdict
from server.alerts.user_rules.judging import judged_by, preset_rule
from server.alerts.user_rules.presets import RULES, alarms_of
from server.settings import PeerRule

NAN = float("nan")


def windowed(values: np.ndarray, window: int, deviations: float, *, both: bool) -> set[int]:
    """The steps that lie so many standard deviations off the window before them."""
    alarms = set()
    for step in range(window, len(values)):
        past = values[step - window : step]
        off = (values[step] - past.mean()) / past.std()
        if (abs(off) if both else off) > deviations:
            alarms.add(step)
    return alarms


@pytest.fixture
def streams() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(20261128)
    steps = np.arange(600)
    losses = 6.0 * np.exp(-steps / 300) + draw.normal(0, 0.1, 600)
    norms = 1.0 + np.abs(draw.standard_t(3, 600)) * 0.2
    losses[250], norms[400] = 12.0, 30.0
    return losses, norms


def test_z_score_looks_to_both_sides_of_thirty_values(streams):
    losses, norms = streams
    expected = windowed(losses, 30, 3.0, both=True) | windowed(norms, 30, 3.0, both=True)

    assert set(alarms_of(RULES["wandb_z_score"].judge, losses, norms)) == expected
    assert {250, 400} <= expected


def test_six_sigma_looks_above_128_values(streams):
    losses, norms = streams
    expected = windowed(losses, 128, 6.0, both=False) | windowed(norms, 128, 6.0, both=False)

    assert set(alarms_of(RULES["olmo_six_sigma"].judge, losses, norms)) == expected
    assert {250, 400} <= expected


def test_zclip_follows_moving_averages_and_clips_what_alarms(streams):
    losses, norms = streams
    mean, variance, expected = norms[:25].mean(), norms[:25].var(), []
    for step in range(25, 600):
        value = norms[step]
        if (value - mean) / np.sqrt(variance) > 2.5:
            expected.append(step)
            value = mean + 2.5 * np.sqrt(variance)
        mean = 0.97 * mean + 0.03 * value
        variance = 0.97 * variance + 0.03 * (value - mean) ** 2

    assert alarms_of(RULES["zclip"].judge, losses, norms) == expected
    assert 400 in expected


def test_kill_loss_spike_needs_five_losses_of_twice_the_mean():
    losses = np.full(60, 2.0)
    losses[40:44] = 9.0
    four = alarms_of(RULES["kill_loss_spike"].judge, losses, np.ones(60))
    losses[44] = 9.0
    five = alarms_of(RULES["kill_loss_spike"].judge, losses, np.ones(60))

    assert (four, five) == ([], [44])


@pytest.mark.parametrize("name", RULES)
def test_a_number_that_is_nan_alarms_where_the_rule_reads_it(name: PeerRule):
    losses, norms = np.full(200, 2.0), np.full(200, 1.0)
    losses[150:160], norms[150:160] = NAN, NAN

    alarms = alarms_of(RULES[name].judge, losses, norms)

    assert alarms and min(alarms) in range(150, 155) and max(alarms) < 160


@pytest.mark.parametrize("name", RULES)
def test_alerts_carry_the_name_of_the_tool(name: PeerRule):
    rule = preset_rule(name)
    pasts = {}
    found = []
    for step in range(200):
        high = step > 150
        values = {"/loss/value": [50.0 if high else 2.0], "/gradient_norm/value": [90.0 * high + 1]}
        observation = Observation(
            step, {key: np.array(value) for key, value in values.items()}, sampled=False
        )
        verdict, pasts = judged_by(
            [rule], Verdict((), frozenset(), RunningStats()), observation, pasts
        )
        found += verdict.findings

    assert found[0].rule == f"peer:{name}" and found[0].title == RULES[name].title
    assert RULES[name].says in found[0].message


def test_a_step_without_the_numbers_is_not_judged():
    observation = Observation(3, {"/learning_rate/value": np.array([1.0])}, sampled=False)

    verdict, _ = judged_by(
        [preset_rule("zclip")], Verdict((), frozenset(), RunningStats()), observation, {}
    )

    assert verdict.judged == frozenset()
