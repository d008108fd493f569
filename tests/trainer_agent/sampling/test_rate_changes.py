"""The end of a warm-up and each sudden change of the learning rate is sampled."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.sampling.stepped_clock import SteppedClock
from tests.trainer_agent.sampling.test_suspicion import sampled
from trainer_agent.agent import Agent
from trainer_agent.sampling.bursts import SUSPICION_STEPS
from trainer_agent.sampling.rate_changes import Look, RateChanges
from trainer_agent.sampling.sampler import HASTY, Sampler

RATE = 1e-3
WARM_UP = [RATE * (at + 1) / 50 for at in range(50)]
COSINE = [RATE * (1 + math.cos(math.pi * at / 300)) / 2 for at in range(300)]


def looks(rates: list[float]) -> dict[int, Look]:
    """The steps at which a look is asked for; only rates that leave the range are followed."""
    changes, before, asked = RateChanges(), None, {}
    for step, rate in enumerate(rates):
        if not changes.low < rate < changes.high:
            look = changes.follow(rate, before)
            if look is not Look.NOT_NEEDED:
                asked[step] = look
        before = rate
    return asked


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([RATE] * 200, {}),
        (WARM_UP + [RATE] * 100, {52: Look.SAMPLE}),
        (WARM_UP + COSINE[1:], {50: Look.SAMPLE}),
        (WARM_UP, {}),
        (COSINE, {}),
        ([0.0, *WARM_UP, *[RATE] * 50], {53: Look.SAMPLE}),
        ([RATE] * 50 + [RATE / 10] * 50, {50: Look.SAMPLE}),
        ([RATE] * 50 + [2 * RATE] * 50, {50: Look.SAMPLE}),
        ([RATE] * 50 + [100 * RATE] * 50, {50: Look.BURST}),
        ([RATE] * 50 + [0.0] * 50 + [RATE] * 50, {50: Look.SAMPLE, 100: Look.BURST}),
        (COSINE + COSINE, {300: Look.BURST}),
        ([1.3 * RATE] * 50 + [RATE] * 50, {}),
    ],
    ids=[
        "constant", "warm-up", "warm-up and cosine", "warm-up that lasts", "cosine",
        "warm-up from 0", "milestone", "doubled", "a hundred times", "off and on", "restart",
        "a small change",
    ],
)  # fmt: skip
def test_what_is_asked_for(rates: list[float], expected: dict[int, Look]):
    assert looks(rates) == expected


def test_a_schedule_is_seldom_followed_once_it_is_warmed_up():
    changes, calls = RateChanges(), 0
    for rate in WARM_UP + [RATE * 0.9999**at for at in range(10_000)]:
        if not changes.low < rate < changes.high:
            changes.follow(rate)
            calls += 1

    assert calls < 60


@given(st.lists(st.floats(), max_size=40))
def test_any_rates_are_followed(rates: list[float]):
    looks(rates)


def test_hastened_samples_are_the_next_steps_until_an_interval_has_too_many():
    sampler = Sampler(None, overhead=0.01)
    for _ in range(40):
        sampler.end_steps(1, 1.0, 0.0)
        sampler.end_sample(0.2)  # every 20th step
    assert sampler.every == 20 and not sampler.is_sampled(40)

    hastened = []
    for step in range(40, 60):
        sampler.hasten()
        hastened.append(sampler.is_sampled(step))
        sampler.end_steps(1, 1.0, 0.2 * hastened[-1])
        if hastened[-1]:
            sampler.end_sample(0.2)

    assert hastened == [True] * HASTY + [False] * (20 - HASTY)


def test_a_fixed_interval_stays_as_it_is():
    sampler = Sampler(7, overhead=0.01)
    sampler.hasten()

    assert [step for step in range(15) if sampler.is_sampled(step)] == [0, 7, 14]


@pytest.fixture
def job(tmp_path: Path, clock: SteppedClock) -> tuple[Agent, RecordingTransport, torch.optim.SGD]:
    """A job whose budget allows next to no sample after the first ones."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    options = {"overhead": 1e-9, "packs_steps": True, "optimizer": optimizer}
    agent, transport = recorded(model, tmp_path, **options)
    clock.tick_s = 1e-6
    return agent, transport, optimizer


def samples_of(job: tuple[Agent, RecordingTransport, torch.optim.SGD], rates: list[float]):
    agent, transport, optimizer = job
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        agent.step(loss=1.0)
    agent.close()
    return [step for step in sampled(transport) if step > 4]


def test_the_end_of_a_warm_up_is_sampled(job, clock: SteppedClock):
    assert samples_of(job, WARM_UP + COSINE) == [53]  # the rate stands for a step, and then falls


def test_a_rise_is_followed_by_a_burst(job, clock: SteppedClock):
    steps = samples_of(job, [RATE] * 100 + [30 * RATE] * 60)

    assert steps == list(range(102, 102 + SUSPICION_STEPS))


def test_a_drop_is_followed_by_one_sample(job, clock: SteppedClock):
    assert samples_of(job, [RATE] * 100 + [RATE / 10] * 60) == [102]
