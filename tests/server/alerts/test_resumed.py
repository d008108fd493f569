"""An optimizer that began without its state, and what the losses make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from server.alerts.incidents.causes import cause_of
from server.alerts.lifecycle import Transition, advance
from server.alerts.rules import Observation, RunningStats, StackFacts, evaluate
from wire import Health

NOISE = 0.02 * np.random.default_rng(2).standard_normal(400)


def run(
    losses: list[float], *, first: int = 0, fresh_at: int = -1, every: int = 1
) -> list[Transition]:
    stats, tracks, changes = RunningStats(), {}, []
    for step, loss in enumerate(losses, first):
        sampled = step % every == 0 or 0 <= step - fresh_at < 4
        observation = Observation(step, {"/loss/value": np.array([loss])}, sampled=sampled)
        if sampled:  # health comes with samples
            health = Health(fresh_optimizer_at=fresh_at if step >= fresh_at else -1)
            stacks = {"decoder": StackFacts(n_layers=1)}
            observation = replace(observation, stacks=stacks, health=health)
        verdict = evaluate(observation, stats)
        stats = verdict.stats
        tracks, more = advance(tracks, verdict)
        changes += [each for each in more if each.key.rule == "optimizer_state_lost"]
    return changes


def level(n: int, value: float) -> list[float]:
    return (value + NOISE[:n]).tolist()


def test_a_new_optimizer_is_information_at_once():
    changes = run(level(300, 3.0), fresh_at=200)

    (opened,) = [each for each in changes if each.kind == "opened"]
    finding = opened.finding
    assert finding is not None and (opened.step, finding.severity) == (200, "info")
    assert finding.message == (
        "The job goes on at step 200, and its optimizer remembered nothing of the steps before: it "
        "had no state at its first update."
    )
    assert not [each for each in changes if each.kind == "escalated"]
    assert cause_of(opened.key) == "optimizer"


def test_it_is_a_warning_once_the_losses_stand_above_those_before():
    changes = run([*level(200, 3.0), *level(50, 3.6)], fresh_at=200)

    kinds = [(each.kind, each.step) for each in changes if each.kind != "persisted"]
    assert kinds == [("opened", 200), ("escalated", 204)]
    assert changes[-1].finding is not None
    (escalated,) = [each.finding for each in changes if each.kind == "escalated" and each.finding]
    assert "have a median of 3.59, those before 3." in escalated.message


def test_a_process_whose_past_is_not_known_is_judged_by_its_own_first_loss():
    jumps = [3.0, 3.1, 3.5, *level(20, 3.7)]

    changes = run(jumps, first=1000, fresh_at=1000)
    calm = run(level(23, 3.0), first=1000, fresh_at=1000)

    (escalated,) = [each for each in changes if each.kind == "escalated"]
    assert escalated.step == 1004 and escalated.finding is not None
    assert "The first loss was 3, and the next ones have" in escalated.finding.message
    assert [each.kind for each in calm if each.kind == "escalated"] == []


def test_few_samples_are_enough():
    changes = run([*level(200, 3.0), *level(100, 3.6)], fresh_at=200, every=25)

    kinds = [(each.kind, each.step) for each in changes if each.kind != "persisted"]
    assert kinds == [("opened", 200), ("escalated", 225)]


def test_it_is_told_for_a_while_and_a_resumed_optimizer_never():
    assert run([*level(200, 3.0), *level(200, 3.6)]) == []

    changes = run(level(400, 3.0) + level(400, 3.0), first=100, fresh_at=100)
    assert [(each.kind, each.step) for each in changes if each.kind == "resolved"] == [
        ("resolved", 601)
    ]
