"""Where attention logits are heading: a step for those that go on, nothing for those that level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.alerts.incidents.causes import cause_of
from server.alerts.lifecycle import Transition, advance
from server.alerts.rules import Observation, RunningStats, StackFacts, evaluate
from server.alerts.rules.logit_trend import trend_of

Curve = Callable[[float], float]


def run(curve: Curve, n: int = 300, *, every: int = 1, noise: float = 0.3) -> list[Transition]:
    """The alerts of a run whose second block's logits follow a curve over steps."""
    draw = np.random.default_rng(11)
    stats, tracks, changes = RunningStats(), {}, []
    for step in range(0, n, every):
        largest = np.array([3.0, max(curve(step) + noise * draw.standard_normal(), 0.1)])
        values = {
            "/loss/value": np.array([3.0]),
            "decoder/attention_logits/max": largest,
            "decoder/attention_logits/entropy": np.array([2.0, 2.0]),
        }
        observation = Observation(step, values, {"decoder": StackFacts(n_layers=2)})
        verdict = evaluate(observation, stats)
        stats = verdict.stats
        tracks, more = advance(tracks, verdict)
        changes += [change for change in more if change.key.rule == "attention_logit_trend"]
    return changes


@pytest.mark.parametrize("every", [1, 10])
def test_steady_growth_is_told_with_the_step_at_which_it_passes_the_limit(every: int):
    slope = 4.0 / every
    opened = run(lambda step: 5.0 + slope * step, n=24 * every, every=every)[0]

    finding = opened.finding
    assert finding is not None and opened.kind == "opened"
    assert (finding.first_layer, finding.last_layer, finding.severity) == (1, 1, "warning")
    text = finding.message.split("it passes 100 ")[1].rstrip(".")
    numbers = [int(word) for word in text.split() if word.isdigit()]
    truth = 95.0 / slope
    assert min(numbers) - 2 * every <= truth <= max(numbers) + 2 * every
    assert opened.step < truth and cause_of(opened.key) == "attention"


@pytest.mark.parametrize(
    "curve",
    [
        lambda step: 40.0 * (1 - np.exp(-step / 60)),
        lambda step: 90.0 * (1 - np.exp(-step / 60)),
        lambda step: 80.0 / (1 + np.exp(-(step - 100) / 20)),
        lambda step: 60.0,
        lambda step: 30.0 + 0.02 * step,
        lambda step: 60.0 - 0.1 * step,
        lambda step: 60.0 + 10 * np.sin(step / 7),
    ],
    ids=["levels at 40", "levels at 90", "a step to 80", "high", "slow", "falls", "swings"],
)
def test_growth_that_levels_off_is_no_finding(curve: Curve):
    assert run(curve) == []


def test_what_has_passed_the_limit_is_the_other_rule_s():
    kinds = [change.kind for change in run(lambda step: 5.0 + 4.0 * step, n=80)]

    assert kinds[0] == "opened" and kinds[-1] == "resolved"


@given(
    slope=st.floats(0.01, 100.0),
    start=st.floats(-50.0, 50.0),
    gaps=st.lists(st.integers(1, 40), min_size=12, max_size=12),
    outlier=st.integers(0, 11),
)
def test_a_line_s_slope_is_found_beside_one_value_that_is_off(
    slope: float, start: float, gaps: list[int], outlier: int
):
    steps = np.cumsum(gaps).astype(float)
    values = start + slope * steps
    values[outlier] += 1e3

    trend = trend_of(steps, values)

    assert trend.slope == pytest.approx(slope, rel=1e-6)
    assert trend.now == pytest.approx(start + slope * steps[-1], rel=1e-6, abs=1e-6)
