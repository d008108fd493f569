"""A scalar that leaves its range: the job looks closer by itself, and pays for it afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.sampling.stepped_clock import SteppedClock
from trainer_agent.agent import Agent
from trainer_agent.sampling import step_scalars
from trainer_agent.sampling.bursts import SUSPICION_STEPS, Bursts
from trainer_agent.sampling.scalar_range import FEWEST, ScalarRange

NAN, INF = float("nan"), float("inf")


def noisy(n: int, *, mean: float = 2.0, noise: float = 0.05) -> list[float]:
    return (mean + noise * np.random.default_rng(0).standard_normal(n)).tolist()


@pytest.mark.parametrize(("value", "out"), [(2.1, False), (0.1, False), (3.0, True), (INF, True)])
def test_a_value_far_above_the_last_ones_is_out_of_range(value: float, out: bool):
    scalar_range = ScalarRange()
    scalar_range.extend(noisy(64))

    assert scalar_range.extend([value]) == out


def test_a_nan_is_out_of_range_from_the_first_value_on():
    assert ScalarRange().extend([NAN])


def test_no_finite_value_is_out_of_range_before_there_are_enough():
    assert not ScalarRange().extend([*([1.0] * (FEWEST - 1)), 1e6])


def test_a_new_level_becomes_the_range():
    scalar_range = ScalarRange()
    scalar_range.extend(noisy(64))
    scalar_range.extend(noisy(64, mean=5.0))

    assert not scalar_range.extend([5.1])


def test_a_suspicion_begins_a_short_burst(clock: SteppedClock):
    bursts = Bursts(overhead=0.01)

    bursts.suspect()

    assert [bursts.wants_next() for _ in range(SUSPICION_STEPS + 1)].count(True) == SUSPICION_STEPS
    assert (bursts.last_id, bursts.note) == ("", "")


def test_the_next_suspicion_waits_until_the_budget_has_earned_the_last_one(clock: SteppedClock):
    bursts = Bursts(overhead=0.01)
    bursts.suspect()
    while bursts.wants_next():
        bursts.charge(0.01)

    clock.now_s += SUSPICION_STEPS * 0.01 / 0.01 - 1
    bursts.suspect()
    too_early = bursts.wants_next()
    clock.now_s += 2
    bursts.suspect()

    assert (too_early, bursts.wants_next()) == (False, True)


def test_suspicions_keep_to_what_bursts_may_take(clock: SteppedClock):
    bursts = Bursts(overhead=0.01)
    bursts.suspect()

    n_samples = 0
    while bursts.wants_next():
        bursts.charge(0.4)
        n_samples += 1

    assert n_samples == 2  # a third would pass the second that the start grants


def test_a_fixed_interval_stays_as_it_is(clock: SteppedClock):
    bursts = Bursts(overhead=None)

    bursts.suspect()

    assert not bursts.wants_next()


class Elsewhere(Tensor):
    """A tensor that says it is on another device: its number is read with the ring."""

    @property
    def is_cpu(self) -> bool:
        return False


@pytest.fixture
def sparse(tmp_path: Path, clock: SteppedClock) -> tuple[Agent, RecordingTransport]:
    """An agent whose budget allows next to no sample after the first ones."""
    agent, transport = recorded(nn.Linear(2, 2), tmp_path, overhead=1e-9, packs_steps=True)
    clock.tick_s = 1e-6
    return agent, transport


def sampled(transport: RecordingTransport) -> list[int]:
    layouts = transport.layouts
    return [frame.step for frame in transport.frames if not layouts[frame.layout].packs_steps]


@pytest.mark.parametrize("jump", [9.0, NAN, INF])
def test_a_loss_that_jumps_is_followed_by_samples(sparse, clock: SteppedClock, jump: float):
    agent, transport = sparse
    for loss in noisy(100):
        agent.step(loss=loss)
    agent._scalars.flush()
    agent.state_dict()  # until the range is known
    agent.step(loss=jump)
    for _ in range(40):
        agent.step(loss=9.0)
    agent.close()

    after = [step for step in sampled(transport) if step > 4]
    # The jump is noticed in its own step; the step that then runs has begun without hooks.
    assert after == list(range(102, 102 + SUSPICION_STEPS))


def test_a_loss_on_another_device_is_noticed_when_it_arrives(sparse, clock: SteppedClock):
    agent, transport = sparse
    for loss in [*noisy(100), 9.0]:
        agent.step(loss=torch.tensor(loss).as_subclass(Elsewhere))
    agent.state_dict()  # until its frame is made
    for _ in range(3):
        agent.step(loss=torch.tensor(9.0).as_subclass(Elsewhere))
    agent.close()

    assert [step for step in sampled(transport) if step > 4] == [102, 103]


def test_a_run_that_has_diverged_is_not_flushed_at_every_step(sparse, clock: SteppedClock):
    agent, transport = sparse
    for _ in range(300):
        agent.step(loss=NAN)
    agent.close()

    assert clock.now_s < 1000 + step_scalars.CALM_S
    packed = len(transport.frames) - len(sampled(transport))
    assert packed <= 4
