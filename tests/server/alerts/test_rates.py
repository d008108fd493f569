"""Rules on the learning rate of every step, and what others say of it."""

from __future__ import annotations

import numpy as np
import pytest

from server.alerts.incidents.causes import cause_of
from server.alerts.lifecycle import advance
from server.alerts.rules import Key, Observation, RunningStats, StackFacts, evaluate

RATE = 1e-3


def observation(
    step: int, rate: float, loss: float, *, ratio: float | None = None, **rates: float
) -> Observation:
    """A step of which the scalars are recorded, and updates where it was sampled."""
    scalars = {"loss": loss, "learning_rate": rate, **rates}
    values = {f"/{name}/value": np.array([value]) for name, value in scalars.items()}
    stacks = {}
    if ratio is not None:
        values |= {"/updates/ratio": np.array([ratio]), "decoder/updates/ratio": np.array([ratio])}
        stacks = {"decoder": StackFacts(n_layers=1)}
    return Observation(step, values, stacks, sampled=ratio is not None)


def events(steps: list[Observation]) -> list[tuple[str, str, int]]:
    return [(each.kind, each.key.rule, each.step) for each in transitions(steps)]


def transitions(steps: list[Observation]):
    stats, tracks, changes = RunningStats(), {}, []
    for step in steps:
        verdict = evaluate(step, stats)
        stats = verdict.stats
        tracks, more = advance(tracks, verdict)
        changes += more
    return changes


def losses(n: int, start: float = 5.0) -> list[float]:
    draw = np.random.default_rng(3)
    return (start * np.exp(-np.arange(n) / 200) + draw.normal(0, 0.02, n)).tolist()


def zero_from(first: int, last: int, n: int = 120, **more: float) -> list[Observation]:
    return [
        observation(at, 0.0 if first <= at < last else RATE, loss, **more)
        for at, loss in enumerate(losses(n))
    ]


def test_a_rate_of_zero_opens_after_twenty_steps_without_a_sample():
    assert events(zero_from(50, 200))[0] == ("opened", "zero_rate", 69)


def test_nineteen_steps_of_zero_and_the_first_step_of_a_warm_up_are_no_finding():
    assert events(zero_from(50, 69)) == []
    warm_up = [observation(at, RATE * at / 60, loss) for at, loss in enumerate(losses(60))]
    assert events(warm_up) == []


def test_an_alert_ends_five_steps_after_the_rate_is_back():
    changes = events(zero_from(50, 75))

    assert changes == [("opened", "zero_rate", 69), ("resolved", "zero_rate", 79)]


def test_a_schedule_that_has_ended_is_information():
    cosine = [RATE * (1 + np.cos(np.pi * at / 80)) / 2 for at in range(80)] + [0.0] * 40
    steps = [observation(at, rate, 3.0) for at, rate in enumerate(cosine)]

    (opened,) = [change for change in transitions(steps) if change.finding is not None][:1]
    finding = opened.finding
    assert finding is not None and finding.severity == "info"
    assert (finding.title, opened.step) == ("The schedule has ended", 99)
    assert finding.message == (
        "From step 80 to 99 the learning rate is exactly 0, after it had decayed: no step changes "
        "the weights."
    )


def test_a_rate_that_was_set_to_zero_is_a_warning_with_its_first_step():
    (opened,) = transitions(zero_from(50, 90, n=90))[:1]

    assert opened.finding is not None and opened.finding.severity == "warning"
    assert opened.finding.message.startswith("From step 50 to 69 the learning rate is exactly 0")
    assert cause_of(opened.key) == "optimizer"


def test_groups_that_move_beside_one_of_rate_zero_are_no_finding():
    """A backbone whose rate is 0 for a while, beside a head that learns."""
    steps = zero_from(0, 200)
    steps[1] = observation(1, 0.0, 5.0, ratio=1e-4)

    assert events(steps) == []


def test_another_optimizer_that_works_is_no_finding():
    assert events(zero_from(0, 200, learning_rate_1=RATE)) == []


def test_steps_without_a_rate_neither_hold_nor_clear():
    steps = [observation(at, 0.0, 3.0) for at in range(30)]
    steps += [
        Observation(at, {"/loss/value": np.array([3.0])}, sampled=False) for at in range(30, 60)
    ]

    assert events(steps) == [("opened", "zero_rate", 19)]


def jumping(factor: float, loss_factor: float, n: int = 160) -> list[Observation]:
    return [
        observation(
            at, RATE * (factor if at >= 100 else 1), loss * (loss_factor if at > 102 else 1)
        )
        for at, loss in enumerate(losses(n))
    ]


def test_a_rise_that_the_loss_follows_is_named_as_the_cause():
    changes = [change for change in transitions(jumping(100, 2.0)) if change.kind == "opened"]

    (jump,) = [change for change in changes if change.key.rule == "rate_jump"]
    finding = jump.finding
    assert finding is not None and finding.severity == "warning"
    assert finding.title == "The learning rate rose 100-fold, and the loss with it"
    assert finding.message.startswith(
        "At step 100 the learning rate rose from 0.001 to 0.1. At step "
    )
    assert cause_of(jump.key) == "optimizer"
    (diverging,) = [each for each in changes if each.key.rule == "loss_divergence"]
    assert diverging.finding is not None
    assert diverging.finding.message.endswith(
        "The learning rate rose 100-fold at step 100, from 0.001 to 0.1."
    )


@pytest.mark.parametrize(
    ("factor", "loss_factor"), [(100, 1.0), (0.1, 2.0), (1.0, 2.0), (1.6, 2.0)]
)
def test_neither_a_rise_nor_a_loss_alone_is_a_jump(factor: float, loss_factor: float):
    assert "rate_jump" not in {rule for _, rule, _ in events(jumping(factor, loss_factor))}


def test_a_jump_is_the_root_of_its_incident():
    assert cause_of(Key("rate_jump", "", "learning_rate")) == "optimizer"
    opened = [each for each in transitions(jumping(100, 2.0)) if each.kind == "opened"]
    began = {each.key.rule: each.began for each in opened}
    assert began["rate_jump"] <= min(began.values()) + 50
