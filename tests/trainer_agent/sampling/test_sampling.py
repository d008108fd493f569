"""The budget: which steps are sampled, and what that comes to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.sampling.stepped_clock import SteppedClock
from tests.trainer_agent.small_gpt import batch, built, train_step
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.overhead_account import BACKGROUND, BACKGROUND_ONCE, OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.model.plan import Plan
from trainer_agent.sampling.overhead import DeviceClock, OverheadMeter
from trainer_agent.sampling.sampler import DEAR_SHARE, FIRST_STEPS, SURE_STEPS, Sampler


def metered(device: str) -> tuple[OverheadAccount, OverheadMeter]:
    """An account and its meter, of a model on this device."""
    account = OverheadAccount()
    recorder = Recorder(Plan(()), torch.device(device), Guard(), account)
    return account, OverheadMeter(account, recorder)


def simulate(
    sampler: Sampler, steps: int, *, work_s: float, cost_s: float, start_s: float = 0.0
) -> tuple[list[int], float]:
    """Steps sampled, and the agent's share of the time, where nothing varies."""
    sampled, spent, elapsed, pending = [], 0.0, 0.0, start_s
    for step in range(steps):
        is_sampled = sampler.is_sampled(step)
        length = work_s + pending + cost_s * is_sampled
        sampler.end_steps(1, length, length - work_s)
        spent, elapsed, pending = spent + length - work_s, elapsed + length, 0.0
        if is_sampled:
            sampled.append(step)
            sampler.end_sample(cost_s)
    return sampled, spent / elapsed


@settings(max_examples=60, deadline=None)
@given(st.floats(0.002, 0.5), st.floats(1e-4, 3.0), st.floats(0.005, 0.2))
def test_the_share_spent_stays_inside_the_budget(
    work_s: float, cost: float, overhead: float
) -> None:
    sampler = Sampler(None, overhead)

    sampled, share = simulate(sampler, 30_000, work_s=work_s, cost_s=cost * work_s)

    first = SURE_STEPS if cost > DEAR_SHARE else FIRST_STEPS
    assert sampled[:first] == list(range(first))
    assert share <= overhead * 1.02 + first * cost / 30_000


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-4, 3.0), st.floats(0.005, 0.2))
def test_after_the_first_the_interval_at_most_doubles(cost: float, overhead: float) -> None:
    sampled, _ = simulate(Sampler(None, overhead), 5_000, work_s=0.01, cost_s=cost * 0.01)

    gaps = np.diff(sampled[SURE_STEPS if cost > DEAR_SHARE else FIRST_STEPS :])
    assert all(gaps[1:] <= 2 * gaps[:-1]) and all(2 * gaps[1:] + 1 >= gaps[:-1])


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-4, 3.0))
def test_the_first_samples_of_a_small_job_take_a_few_percent(cost: float) -> None:
    _, share = simulate(Sampler(None, 0.01), 60, work_s=0.05, cost_s=cost * 0.05)

    # Two samples whatever they cost, or four of 15 %; then the budget, and a sample that is due.
    sure = SURE_STEPS * cost / 60 if cost > DEAR_SHARE else FIRST_STEPS * DEAR_SHARE / 60
    assert share <= sure + 0.01 + cost / 60


def test_a_dear_first_sample_is_no_measure_of_the_others() -> None:
    sampler = Sampler(None, 0.05)

    sampled = []
    for step in range(100):
        cost_s = 0.0 if not sampler.is_sampled(step) else 0.001 if step else 0.5
        sampler.end_steps(1, 0.1 + cost_s, cost_s)
        if cost_s:
            sampled.append(step)
            sampler.end_sample(cost_s)

    assert sampled[:FIRST_STEPS] == list(range(FIRST_STEPS))


def test_several_processes_begin_alike_whatever_their_samples_cost() -> None:
    samplers = [Sampler(None, 0.01) for _ in range(2)]

    sampled: list[list[int]] = [[], []]
    for step in range(30):
        for rank, sampler in enumerate(samplers):
            cost_s = (0.001, 0.5)[rank]
            if sampler.is_sampled(step):
                sampled[rank].append(step)
                sampler.end_steps(1, 0.1 + cost_s, cost_s)
                sampler.end_sample(cost_s, 7)
            else:
                sampler.end_steps(1, 0.1, 0.0)

    assert sampled[0] == sampled[1]


def test_a_job_that_costs_less_than_the_budget_is_sampled_every_step() -> None:
    sampled, _ = simulate(Sampler(None, 0.05), 50, work_s=0.1, cost_s=0.001)

    assert sampled == list(range(50))


def test_the_start_is_paid_back_over_time_without_starving_the_page() -> None:
    sampler = Sampler(None, 0.01)

    sampled, share = simulate(sampler, 20_000, work_s=0.1, cost_s=0.01, start_s=2.0)

    assert max(np.diff(sampled)) <= 20  # half the budget at 10 % a sample
    assert share <= 0.01
    assert sampler.every == 10


def test_less_than_a_sample_a_minute_is_too_costly_until_samples_cost_less() -> None:
    sampler = Sampler(None, 0.01)

    simulate(sampler, 10, work_s=10.0, cost_s=1.0)

    assert sampler.too_costly
    sampler.forget_costs()
    sampler.end_steps(1, 10.0, 0.1)
    sampler.end_sample(0.1)
    assert not sampler.too_costly


def test_a_fixed_interval_follows_the_step_numbers() -> None:
    sampler = Sampler(3, 0.01)

    assert [step for step in range(5, 13) if sampler.is_sampled(step)] == [6, 9, 12]


def test_by_default_the_first_steps_are_sampled_and_then_fewer(
    clock: SteppedClock, tmp_path: Path
) -> None:
    clock.tick_s = 0.001
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, overhead=0.01)

    for step in range(60):
        clock.now_s += 0.1
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    steps = [frame.step for frame in transport.frames]
    assert steps[:SURE_STEPS] == list(range(SURE_STEPS))
    # A sample reads the clock some sixty times: it costs more than half a step.
    assert len(steps) < 12
    assert transport.health.every > 4
    assert 0 < transport.health.overhead <= 1


@pytest.mark.parametrize(("device", "charged"), [("cpu", 1.0), ("meta", 0.0)])
def test_the_agents_own_threads_count_where_the_model_is_on_the_cpu(
    device: str, charged: float
) -> None:
    _, meter = metered(device)
    began = meter._began
    meter.end_step(began + 50.0)
    meter.share_since_frame()

    meter.charge_background(3.0, False)  # the thread's start
    meter.charge_background(2.0, True)
    _, spent_s = meter.end_step(began + 100.0)

    assert spent_s == pytest.approx(5.0 * charged)
    assert meter.share_since_frame() == pytest.approx(0.1 * charged)


def test_a_sample_costs_its_part_of_what_is_done_for_several_at_a_time(clock: SteppedClock) -> None:
    account, meter = metered("cpu")
    meter.charge_background(7.0, False)  # does not recur

    costs = []
    for sample in range(400):
        meter.charge_background(1.0 if sample % 4 == 0 else 0.0, True)
        account.add("stream", 0.5)
        meter.share_since_frame()
        costs.append(meter.end_sample(clock.now_s))

    assert np.mean(costs[-40:]) == pytest.approx(0.75, abs=0.01)
    assert max(costs[-40:]) < 0.9


def test_the_senders_work_is_in_the_share_that_a_run_reports(
    tmp_path: Path,
) -> None:
    model, optimizer = built()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer, overhead=0.01)

    for step in range(5):
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    background_s = agent._parts.account.of(BACKGROUND) + agent._parts.account.of(BACKGROUND_ONCE)
    assert background_s > 0
    share = agent._parts.meter.share_since_start()
    # Read after the share, so that a pause between the two makes this product larger.
    elapsed_s = time.perf_counter() - agent._parts.meter._began
    assert share * elapsed_s > agent._parts.account.total() - background_s


def test_unsampled_steps_find_no_hook_on_the_blocks(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, every=3)
    hooked = []

    for step in range(7):
        hooked.append(bool(model.blocks[0]._forward_hooks))
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    assert hooked == [True, False, False, True, False, False, True]
    assert len(transport.frames) == 3
    assert np.isfinite(transport.series("decoder/stream/variance")).all()


def test_the_costliest_site_goes_first_and_is_named(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(0)))
    agent._parts.account.add("attention_logits", 60.0)

    assert agent._parts.hooks.drop_costliest_site()
    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    assert transport.health.dropped_sites == ("attention_logits",)
    assert np.isnan(transport.series("decoder/attention_logits/max")).all()
    assert np.isfinite(transport.series("decoder/stream/variance")).all()


class Event:
    """A CUDA event that was recorded at a time of its own choice."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms = at_ms

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return other.at_ms - self.at_ms


@pytest.mark.parametrize(("sampled_ms", "extra_s"), [(13.0, 0.003), (9.0, 0.0)])
def test_the_device_clock_compares_sampled_steps_with_the_next(
    sampled_ms: float, extra_s: float
) -> None:
    now = [0.0]
    clock = DeviceClock(record=lambda: Event(now[0]))

    for step in range(40):
        now[0] += sampled_ms if step % 5 == 0 else 10.0
        clock.end_step(sampled=step % 5 == 0, next_sampled=step % 5 == 4)

    assert clock.extra_s() == pytest.approx(extra_s)


@pytest.mark.parametrize("every", [1, 2, 3, 50, None])
def test_steps_passed_over_together_are_those_not_sampled_one_by_one(every: int | None) -> None:
    stepwise, jumping = Sampler(every, 0.01), Sampler(every, 0.01)  # 9.3 steps a sample
    expected, _ = simulate(stepwise, 2_000, work_s=0.01, cost_s=0.00093)

    sampled, step = [], 0
    while step < 2_000:
        passed = max(jumping.unsampled_from(step), 1)
        is_sampled = jumping.is_sampled(step)
        jumping.end_steps(passed, 0.01 * passed + 0.00093 * is_sampled, 0.00093 * is_sampled)
        if is_sampled:
            sampled.append(step)
            jumping.end_sample(0.00093)
        step += passed

    assert sampled == expected


@pytest.mark.parametrize("numbered", [False, True])
def test_an_interval_holds_whether_or_not_the_job_numbers_its_steps(
    tmp_path: Path, numbered: bool
) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, every=7)

    for number in range(30):
        loss = train_step(model, optimizer, batch(number))
        agent.step(loss=loss, step=number if numbered else None)
    agent.step(loss=loss, step=69)  # restarted elsewhere: step 70 is sampled
    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    assert [frame.step for frame in transport.frames] == [0, 7, 14, 21, 28, 70]
