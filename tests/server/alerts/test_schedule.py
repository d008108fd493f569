"""What the rules take from learning rates, on the schedules that torch and transformers make."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from server.alerts.rules.schedule import RateChange, Schedule, follow

PEAK, STEPS = 1e-3, 400
Make = Callable[[Optimizer], LRScheduler]


def rates(make: Make, steps: int = STEPS) -> list[float]:
    """The rate of the first group at the end of each step, as an agent reads it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    read = []
    for _ in range(steps):
        read.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return read


def schedule_of(values: list[float]) -> Schedule:
    return follow(enumerate(values))


SMOOTH: dict[str, Make] = {
    "constant": lambda o: ConstantLR(o, factor=1.0),
    "linear": lambda o: get_linear_schedule_with_warmup(o, 40, STEPS),
    "cosine": lambda o: get_cosine_schedule_with_warmup(o, 40, STEPS),
    "cosine of torch": lambda o: CosineAnnealingLR(o, STEPS),
    "constant after a warm-up": lambda o: get_constant_schedule_with_warmup(o, 100),
    "inverse root": lambda o: get_inverse_sqrt_schedule(o, 40),
    "wsd": lambda o: get_wsd_schedule(o, 40, 100, num_stable_steps=200),
    "one cycle": lambda o: OneCycleLR(o, max_lr=PEAK, total_steps=STEPS + 1),
    "polynomial": lambda o: PolynomialLR(o, total_iters=STEPS, power=2.0),
    "exponential": lambda o: ExponentialLR(o, gamma=0.97),
    "triangles": lambda o: CyclicLR(o, base_lr=PEAK / 10, max_lr=PEAK, step_size_up=40),
    "linear, then cosine": lambda o: SequentialLR(
        o,
        [LinearLR(o, start_factor=0.01, total_iters=40), CosineAnnealingLR(o, STEPS - 40)],
        milestones=[40],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_schedule_has_no_sudden_change(name: str):
    assert schedule_of(rates(SMOOTH[name])).change is None


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("linear", 40),
        ("cosine", 40),
        ("wsd", 40),
        ("inverse root", 40),
        ("constant after a warm-up", 100),
        ("one cycle", int(0.3 * (STEPS + 1)) - 1),
        ("constant", None),
        ("cosine of torch", None),
    ],
)
def test_the_end_of_a_warm_up_is_known(name: str, end: int | None):
    schedule = schedule_of(rates(SMOOTH[name]))

    assert schedule.warm_up_end == end and not schedule.is_warming_up


@pytest.mark.parametrize("name", ["linear", "cosine", "constant after a warm-up", "one cycle"])
def test_a_warm_up_that_lasts_is_one(name: str):
    schedule = schedule_of(rates(SMOOTH[name], 35))

    assert schedule.is_warming_up and not schedule.is_at_work


def test_a_schedule_is_at_work_until_it_has_decayed_to_half():
    values = rates(SMOOTH["cosine"])

    working = [at for at in range(STEPS) if schedule_of(values[: at + 1]).is_at_work]
    # 1 + cos is at least 1 for half of the steps after the warm-up.
    assert working == list(range(41, 221))


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "polynomial"])
def test_zeros_after_a_decay_are_the_end_of_a_schedule(name: str):
    values = rates(SMOOTH[name], STEPS)
    schedule = schedule_of([*values, *[0.0] * 30])

    assert schedule.ended and schedule.zeros >= 30 and schedule.change is None


def test_a_rate_set_to_zero_is_no_end():
    schedule = schedule_of([PEAK] * 50 + [0.0] * 30)

    assert not schedule.ended and schedule.zeros == 30
    assert schedule.change == RateChange(50, PEAK, 0.0, "drop")


def test_a_warm_restart_is_told_from_a_rise():
    restart = schedule_of(rates(lambda o: CosineAnnealingWarmRestarts(o, 100), 150)).change
    rise = schedule_of([PEAK] * 60 + [100 * PEAK] * 5).change

    assert restart is not None and (restart.step, restart.kind) == (100, "restart")
    assert rise is not None and (rise.step, rise.kind) == (60, "rise")
    assert rise.factor == pytest.approx(100)
    assert str(rise) == "the learning rate rose 100-fold at step 60, from 0.001 to 0.1"


def test_a_milestone_is_a_drop_and_explains_nothing():
    schedule = schedule_of(rates(lambda o: MultiStepLR(o, [80], gamma=0.1), 100))

    assert schedule.change is not None and schedule.change.kind == "drop"
    assert schedule.recent_change(120) == schedule.change and schedule.explains(120) == ""


def test_a_rise_explains_what_follows_for_a_while():
    schedule = schedule_of([PEAK] * 60 + [10 * PEAK] * 5)

    assert schedule.explains(160) == (
        " The learning rate rose 10-fold at step 60, from 0.001 to 0.01."
    )
    assert schedule.explains(161) == ""


def test_rates_of_steps_far_apart_are_not_compared():
    sparse = [(step, rate) for step, rate in enumerate(rates(SMOOTH["cosine"])) if step % 50 == 0]

    assert follow(sparse).change is None


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(allow_nan=True)), max_size=30))
def test_any_rates_are_followed(steps: list[tuple[int, float]]):
    step, pairs = 0, []
    for ahead, rate in steps:
        step += ahead
        pairs.append((step, rate))

    schedule = follow(pairs)

    known = [rate for _, rate in pairs if math.isfinite(rate) and rate >= 0]
    assert schedule.steps == len(known) and schedule.peak == max(known, default=0.0)
    assert schedule.change is None or schedule.change.factor >= 1.5
    schedule.explains(step)
