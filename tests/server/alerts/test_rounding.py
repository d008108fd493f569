"""Updates that rounding swallows: said of weights of half precision, once the rate is at work."""

from __future__ import annotations

import numpy as np
import pytest

from server.alerts.incidents.causes import cause_of
from server.alerts.lifecycle import Transition, advance
from server.alerts.rules import Observation, RunningStats, StackFacts, evaluate


def run(shares: list[float], rates: list[float] | None = None, every: int = 1) -> list[Transition]:
    stats, tracks, changes = RunningStats(), {}, []
    for step, rate in enumerate(rates or [1e-5] * len(shares) * every):
        sampled = step % every == 0
        values = {"/learning_rate/value": np.array([rate]), "/loss/value": np.array([3.0])}
        if sampled:
            values["/unchanged_weights/value"] = np.array([shares[step // every]])
        stacks = {"decoder": StackFacts(n_layers=1)} if sampled else {}
        verdict = evaluate(Observation(step, values, stacks, sampled=sampled), stats)
        stats = verdict.stats
        tracks, more = advance(tracks, verdict)
        changes += [change for change in more if change.key.rule == "rounded_updates"]
    return changes


@pytest.mark.parametrize(
    ("share", "severity"), [(0.85, "info"), (0.97, "warning"), (1.0, "warning")]
)
def test_a_share_that_stays_is_a_finding(share: float, severity: str):
    (opened,) = run([share] * 5)

    finding = opened.finding
    assert finding is not None and (opened.step, finding.severity) == (2, severity)
    assert f"left {share:.1%} of the blocks' weights exactly as they were" in finding.message
    assert "learning rate of 1e-05" in finding.message
    assert cause_of(opened.key) == "optimizer"


def test_few_samples_are_enough_and_an_alert_ends_after_twenty():
    assert [each.step for each in run([0.97] * 4, every=25)] == [50]
    kinds = [each.kind for each in run([0.97] * 5 + [0.3] * 25)]
    assert (kinds[0], kinds[-1]) == ("opened", "resolved")


@pytest.mark.parametrize(
    "rates",
    [[1e-9 * (at + 1) for at in range(30)], [1e-3] * 10 + [1e-5] * 20],
    ids=["warm-up", "decayed"],
)
def test_small_steps_by_design_are_no_finding(rates: list[float]):
    assert run([0.2] * 10 + [0.99] * 20, rates) == []


def test_usual_shares_and_runs_of_full_precision_are_no_finding():
    assert run([0.7] * 30) == [] and run([float("nan")] * 30) == []
