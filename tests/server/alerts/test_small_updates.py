"""Updates that are far too small, and all the small ones that are as they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.alerts.incidents.causes import cause_of
from server.alerts.lifecycle import Transition, advance
from server.alerts.rules import Expected, Observation, RunningStats, StackFacts, evaluate

CURVE = np.ones(3)
START = Expected(0, *[CURVE] * 9)
FRESH = StackFacts(n_layers=2, expected=(START,))
N = 200
FLAT = (5.5 + 0.03 * np.random.default_rng(5).standard_normal(N)).tolist()
LEARNING = (5.5 * np.exp(-np.arange(N) / 100)).tolist()
WARM_UP = [min(1.0, (at + 1) / 20) for at in range(N)]


def run(
    losses: list[float] = FLAT,
    ratio: float = 1e-6,
    *,
    facts: StackFacts = FRESH,
    factors: list[float] = WARM_UP,
    every: int = 1,
    first: int = 0,
) -> list[Transition]:
    """The alerts of a run whose updates are `ratio` at the peak of its rate."""
    stats, tracks, changes = RunningStats(), {}, []
    for step, (loss, factor) in enumerate(zip(losses, factors, strict=True)):
        if step < first:
            continue
        sampled = step % every == 0
        values = {
            "/loss/value": np.array([loss]),
            "/learning_rate/value": np.array([1e-7 * factor]),
        }
        if sampled:
            values["/updates/ratio"] = np.array([ratio * factor])
        stacks = {"decoder": facts} if sampled else {}
        verdict = evaluate(Observation(step, values, stacks, sampled=sampled), stats)
        stats = verdict.stats
        tracks, more = advance(tracks, verdict)
        changes += [change for change in more if change.key.rule == "small_updates"]
    return changes


def test_a_fresh_model_that_hardly_moves_is_a_finding_with_its_rate_and_loss():
    opened = run()[0]

    finding = opened.finding
    assert finding is not None and (opened.kind, opened.step) == ("opened", 65)
    assert (finding.severity, finding.title) == ("warning", "Steps are far too small")
    assert "changes the weights by 1.0·10⁻⁶ of their size" in finding.message
    assert "at a learning rate of 1.0·10⁻⁷" in finding.message
    assert "the loss is 5." in finding.message and "and was 5." in finding.message
    assert cause_of(opened.key) == "optimizer"


def test_few_samples_are_enough():
    assert [(each.kind, each.step) for each in run(every=25)] == [("opened", 125)]


def test_an_alert_ends_once_the_loss_falls():
    n = N // 2
    falling = (5.5 * np.exp(-np.arange(n) / 100)).tolist()

    assert [each.kind for each in run(FLAT[:n] + falling)][-1] == "resolved"


@pytest.mark.parametrize(
    "healthy",
    [
        {"losses": LEARNING},
        {"ratio": 1e-4},
        {"ratio": 8e-4},
        {"facts": replace(FRESH, untrained=False)},
        {"facts": StackFacts(n_layers=2)},
        {"factors": [(at + 1) / 10_000 for at in range(N)]},
        {"factors": [float(at < 20) + 0.01 for at in range(N)]},
        {"ratio": 0.0},
        {"ratio": float("nan")},
        {"first": 90},
        {"losses": [-loss for loss in FLAT]},
    ],
    ids=[
        "it learns",
        "small, and of a usual kind",
        "DeepScaleLM",
        "fine-tuned",
        "not described",
        "a long warm-up",
        "the end of a schedule",
        "frozen: another rule's",
        "no update",
        "not seen from the start on",
        "no likelihood",
    ],
)
def test_small_steps_that_are_as_they_should_be_are_no_finding(healthy: dict):
    assert run(**healthy) == []
