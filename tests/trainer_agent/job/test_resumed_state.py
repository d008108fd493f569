"""A job that goes on with an optimizer that remembers nothing is told from one that does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop

from tests.trainer_agent.recording import RecordingTransport, recorded
from trainer_agent.agent import Agent

Make = Callable[[nn.Module], Optimizer]
MAKE: dict[str, Make] = {
    "AdamW": lambda model: AdamW(model.parameters(), 1e-3),
    "fused AdamW": lambda model: AdamW(model.parameters(), 1e-3, fused=True),
    "momentum": lambda model: SGD(model.parameters(), 1e-2, momentum=0.9),
    "RMSprop": lambda model: RMSprop(model.parameters(), 1e-3),
}


def train(model: nn.Module, optimizer: Optimizer, agent: Agent | None, steps: list[int]) -> None:
    for step in steps:
        loss = model(torch.ones(1, 2)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss, step=step)


def resumed(folder: Path, make: Make, steps: list[int], *, state: bool) -> int:
    """What the server hears of a job that trained before, and goes on with these steps."""
    model = nn.Linear(2, 2)
    before = make(model)
    train(model, before, None, [0, 1, 2])
    optimizer = make(model)
    if state:
        optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
    agent, transport = recorded(model, folder, optimizer=optimizer)
    train(model, optimizer, agent, steps)
    assert agent.close()
    return transport.health.fresh_optimizer_at


@pytest.mark.parametrize("name", MAKE)
def test_state_that_was_not_loaded_is_told_with_the_first_step(tmp_path: Path, name: str):
    assert resumed(tmp_path, MAKE[name], [1000, 1001, 1002], state=False) == 1000


@pytest.mark.parametrize("name", MAKE)
def test_state_that_was_loaded_is_not(tmp_path: Path, name: str):
    assert resumed(tmp_path, MAKE[name], [1000, 1001, 1002], state=True) == -1


@pytest.mark.parametrize(
    "steps",
    [[0, 1, 2], [1, 2, 3], [19, 20, 21], [512, 1024, 1536], [1000]],
    ids=["from 0", "from 1", "a few steps late", "counted by samples", "one step alone"],
)
def test_a_job_that_begins_is_none_that_goes_on(tmp_path: Path, steps: list[int]):
    assert resumed(tmp_path, MAKE["AdamW"], steps, state=False) == -1


@pytest.mark.parametrize(
    "make",
    [
        lambda model: SGD(model.parameters(), 1e-2),
        lambda model: Adagrad(model.parameters(), 1e-2),  # has its state from the start on
    ],
    ids=["plain SGD", "Adagrad"],
)
def test_an_optimizer_that_shows_no_loss_of_state_is_no_finding(tmp_path: Path, make: Make):
    assert resumed(tmp_path, make, [1000, 1001, 1002], state=False) == -1


def test_hooks_are_gone_after_two_steps(tmp_path: Path):
    model = nn.Linear(2, 2)
    optimizer = AdamW(model.parameters(), 1e-3)
    agent, _ = recorded(model, tmp_path, optimizer=optimizer)
    hooks: Any = optimizer._optimizer_step_post_hooks  # type: ignore[attr-defined]
    at_watch = len(hooks)

    train(model, optimizer, agent, [1000, 1001])

    assert len(hooks) == at_watch - 1
    agent.close()


def test_a_state_that_cannot_be_read_harms_nothing(tmp_path: Path):
    class Odd(SGD):
        @property
        def state(self) -> Any:
            raise RuntimeError("sharded elsewhere")

        @state.setter
        def state(self, value: Any) -> None:
            pass

    model = nn.Linear(2, 2)
    optimizer = Odd(model.parameters(), 1e-2)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    train(model, optimizer, agent, [1000, 1001, 1002])

    assert agent.close() and transport.health.fresh_optimizer_at == -1


def test_a_checkpoint_of_the_agent_counts_as_going_on(tmp_path: Path):
    model = nn.Linear(2, 2)
    optimizer = MAKE["AdamW"](model)
    agent, _ = recorded(model, tmp_path / "a", optimizer=optimizer)
    train(model, optimizer, agent, list(range(40)))
    state = agent.state_dict()
    agent.close()

    second, transport = go_on(model, tmp_path / "b", state)
    assert second.close() and transport.health.fresh_optimizer_at == 40


def go_on(
    model: nn.Module, folder: Path, state: dict[str, Any]
) -> tuple[Agent, RecordingTransport]:
    optimizer = MAKE["AdamW"](model)
    agent, transport = recorded(model, folder, optimizer=optimizer)
    agent.load_state_dict(state)
    for _ in range(3):
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        optimizer.step()
        agent.step(loss=loss)
    return agent, transport
