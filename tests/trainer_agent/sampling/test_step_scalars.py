"""What `agent.step` is given is recorded at every step, be it sampled or not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.trainer_agent.recording import RecordingTransport, recorded
from trainer_agent.agent import Agent
from trainer_agent.sampling import step_scalars
from wire import is_absent, unpack_steps

EVERY = 4


def watched(folder: Path, **options: Any) -> tuple[Agent, RecordingTransport]:
    """An agent that samples every fourth step, on a server that takes what lies between."""
    defaults = {"every": EVERY, "packs_steps": True}
    return recorded(nn.Linear(2, 2), folder, **{**defaults, **options})


def take_steps(agent: Agent, losses: list[Any]) -> None:
    for loss in losses:
        agent.step(loss=loss)


def test_the_loss_of_every_step_arrives_in_the_order_of_steps(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path)
    take_steps(agent, [float(step) for step in range(11)])

    assert agent.close()

    assert transport.scalars("loss") == {step: float(step) for step in range(11)}
    seqs = [frame.seq for frame in transport.frames]
    assert [frame.step for frame in transport.frames] == [0, 3, 4, 7, 8, 10]
    assert seqs == list(range(1, 7))


def test_a_budget_leaves_no_step_out(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path, every=None, overhead=1e-6)
    take_steps(agent, [float(step) for step in range(300)])

    assert agent.close()

    assert transport.scalars("loss") == {step: float(step) for step in range(300)}
    assert len(transport.frames) < 20


def test_times_are_those_of_the_steps(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path)
    take_steps(agent, [1.0] * 4)
    agent.close()

    sampled, packed = transport.frames
    times = unpack_steps(packed, transport.layouts[packed.layout]).times
    assert all(before <= after for before, after in pairwise([sampled.time, *times]))
    assert times[-1] == packed.time


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_tensor_counts_as_it_was_when_it_was_given(tmp_path: Path, dtype: torch.dtype) -> None:
    agent, transport = watched(tmp_path)
    loss = torch.zeros((), dtype=dtype, requires_grad=True)
    for _ in range(EVERY):
        agent.step(loss=loss)
        with torch.no_grad():
            loss += 1

    agent.close()

    assert transport.scalars("loss") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_a_loss_that_is_not_given_is_absent_and_a_nan_is_a_nan(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path)
    for loss in (1.0, None, float("nan"), 2.0):
        agent.step(loss=loss, reward=1.0)
    agent.close()

    losses = np.array(list(transport.scalars("loss").values()))
    assert is_absent(losses).tolist() == [False, True, False, False]
    assert np.isnan(losses).tolist() == [False, True, True, False]


def test_learning_rates_and_what_else_is_given_are_recorded(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    agent, transport = recorded(model, tmp_path, every=EVERY, packs_steps=True, optimizer=optimizer)
    agent.step(loss=1.0)
    optimizer.param_groups[0]["lr"] = 0.25
    agent.step(loss=1.0, reward=torch.tensor(7.0))
    agent.step(loss=1.0, learning_rate=0.125)
    agent.close()

    assert transport.scalars("learning_rate") == {0: 0.5, 1: 0.25, 2: 0.125}
    assert transport.scalars("reward")[1] == 7.0


def test_an_optimizer_without_a_rate_leaves_the_loss_recorded(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    del optimizer.param_groups[0]["lr"]
    agent, transport = recorded(model, tmp_path, every=EVERY, packs_steps=True, optimizer=optimizer)
    take_steps(agent, [1.0, 2.0, 3.0])
    agent.close()

    assert transport.scalars("loss") == {0: 1.0, 1: 2.0, 2: 3.0}
    assert transport.health.failures == 0


def test_what_is_no_number_is_absent_and_no_failure(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path)
    take_steps(agent, [1.0, torch.ones(3), "much", 2.0])
    agent.close()

    losses = np.array(list(transport.scalars("loss").values()))
    assert is_absent(losses).tolist() == [False, True, True, False]
    assert transport.health.failures == 0


def test_steps_that_do_not_follow_one_another_lie_in_frames_of_their_own(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path, every=1000)
    agent.step(loss=0.0)
    for step in (1, 2, 7, 8, 5):
        agent.step(loss=float(step), step=step)
    agent.close()

    assert [frame.step for frame in transport.frames] == [0, 2, 8, 5]
    assert transport.scalars("loss") == {step: float(step) for step in (0, 1, 2, 7, 8, 5)}


def test_a_long_stretch_is_sent_while_it_lasts(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path, every=10**6)
    take_steps(agent, [1.0] * (step_scalars.CAPACITY + 2))

    agent.state_dict()  # waits until what was sent before is on disk
    agent.close()

    assert [frame.step for frame in transport.frames][:2] == [0, step_scalars.CAPACITY]


def test_a_checkpoint_has_all_steps_before_it_on_disk(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path)
    take_steps(agent, [1.0, 2.0, 3.0])

    state = agent.state_dict()

    assert state["last_seq"] == 2
    agent.close()
    assert transport.scalars("loss") == {0: 1.0, 1: 2.0, 2: 3.0}


def test_an_older_server_gets_the_samples_and_nothing_counts_as_lost(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path, packs_steps=False)
    take_steps(agent, [1.0] * 10)

    assert agent.close()

    assert [frame.step for frame in transport.frames] == [0, 4, 8]
    assert len(transport.layouts) == 1
    assert transport.health.dropped == 0


class Elsewhere(Tensor):
    """A tensor that says it is on another device: its number takes the way through the ring."""

    @property
    def is_cpu(self) -> bool:
        return False


def test_numbers_on_another_device_go_through_the_ring(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path, every=10**6)
    n_steps = 2 * step_scalars.CAPACITY + 10
    loss = torch.zeros((), requires_grad=True).as_subclass(Elsewhere)
    for step in range(n_steps):
        agent.step(loss=loss, reward=float(-step), step=step if step != 500 else None)
        with torch.no_grad():
            loss += 1
    agent.close()

    assert transport.health.failures == 0
    assert transport.scalars("loss") == {step: float(step) for step in range(n_steps)}
    assert transport.scalars("reward") == {step: float(-step) for step in range(1, n_steps)} | {
        0: 0.0
    }


def test_a_jump_of_steps_loses_no_number_of_another_device(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path, every=10**6)
    steps = [0, 1, 2, 9, 10, 4]
    for step in steps:
        loss = torch.tensor(float(step)).as_subclass(Elsewhere)
        agent.step(loss=loss, step=step)
    agent.close()

    assert transport.scalars("loss") == {step: float(step) for step in steps}


class NoNumber(Tensor):
    """A tensor whose device fails when it is asked."""

    @property
    def is_cpu(self) -> bool:
        raise RuntimeError("no device")


def test_a_failure_is_counted_and_stays_away_from_the_job(tmp_path: Path) -> None:
    agent, transport = watched(tmp_path)
    broken = torch.zeros(()).as_subclass(NoNumber)
    agent.step(loss=1.0)
    agent.step(loss=broken)
    agent.step(loss=3.0)
    agent.close()

    assert transport.health.failures == 1
    assert transport.scalars("loss")[2] == 3.0


# Losses of steps; a restart goes back to the last checkpoint, which the step before it wrote.
given_losses = st.one_of(st.floats(-100, 100, width=32), st.none(), st.just(float("nan")))
happenings = st.lists(
    st.one_of(
        st.lists(given_losses, min_size=1, max_size=6), st.just("checkpoint"), st.just("restart")
    ),
    max_size=8,
)


@settings(max_examples=25)
@given(happenings, st.integers(1, 5))
def test_the_recorded_losses_are_those_that_were_given(
    happened: list[list[float | None] | str], every: int
) -> None:
    with TemporaryDirectory() as folder:
        agent, transport = watched(Path(folder), every=every)
        transports, losses, state = [transport], {}, agent.state_dict()
        step = 0
        for event in happened:
            if event == "checkpoint":
                state = agent.state_dict()
            elif event == "restart":
                agent.close()
                agent, transport = watched(Path(folder), every=every)
                transports.append(transport)
                agent.load_state_dict(state)
                step = state["step"]
                losses = {at: loss for at, loss in losses.items() if at < step}
            else:
                take_steps(agent, list(event))
                losses |= {step + n: loss for n, loss in enumerate(event)}
                step += len(event)
        agent.close()

    everything = RecordingTransport()
    for transport in transports:
        everything.frames += transport.frames
        everything.declarations += transport.declarations
    stored = {at: _bits(loss) for at, loss in everything.scalars("loss").items() if at < step}
    assert {at: bits for at, bits in stored.items() if bits != "absent"} == {
        at: _bits(np.float32(loss)) for at, loss in losses.items() if loss is not None
    }


def _bits(value: np.float32) -> str:
    absent = bool(is_absent(np.array([value], np.float32))[0])
    return "absent" if absent else "nan" if np.isnan(value) else float(value).hex()
