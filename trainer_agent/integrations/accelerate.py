"""Accelerate: ``agent = watch(accelerator, model, optimizer, project="gpt", run="a")``."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from trainer_agent.agent import Agent
from trainer_agent.attach import watch as watch_model
from trainer_agent.capture.statistics.accumulator import Scalar
from trainer_agent.capture.step_loss import StepLoss


class AcceleratedAgent:
    """An agent that counts a step where the accelerator synchronizes gradients. Made by `watch`.

    It is registered for checkpoints: ``accelerator.load_state`` goes on with their run.

    Attributes:
        agent: the agent of this process.
    """

    def __init__(self, accelerator: Accelerator, agent: Agent) -> None:
        self.agent = agent
        self._accelerator = accelerator
        self._losses = StepLoss()

    def step(
        self, loss: Scalar | None = None, *, step: int | None = None, **scalars: Scalar
    ) -> None:
        """Say that a batch is over; only the last of an accumulated step counts as one.

        Args:
            loss: the batch's loss; the step's is the mean over its batches.
            step: number of the optimizer step, where it is not one more than the last.
            scalars: further numbers of the step.
        """
        self._losses.add(loss)
        if self._accelerator.sync_gradients:
            self.agent.step(self._losses.take_mean(), step=step, **scalars)

    @property
    def should_stop(self) -> bool:
        """Whether the loop is asked to stop: ``on_alert="stop"`` and a critical alert."""
        return self.agent.should_stop

    @property
    def should_save(self) -> bool:
        """Whether it is asked for a checkpoint, until ``accelerator.save_state`` has made one."""
        return self.agent.should_save

    def close(self, timeout_s: float = 10.0) -> bool:
        """End the run; returns whether everything arrived."""
        return self.agent.close(timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """What ``accelerator.save_state`` keeps of the run."""
        return self.agent.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of a checkpoint."""
        self.agent.load_state_dict(state)

    def __enter__(self) -> AcceleratedAgent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.agent.__exit__(kind, error, trace)


def watch(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, **options: Any
) -> AcceleratedAgent:
    """Watch a model that the accelerator has prepared; call it before ``load_state``.

    Args:
        accelerator: tells of gradient accumulation, checkpoints and processes.
        model, optimizer: as ``accelerator.prepare`` returned them.
        options: the other arguments of `trainer_agent.watch`.
    """
    # Accelerate wraps the optimizer in a class that calls no step hooks.
    inner = getattr(optimizer, "optimizer", optimizer)
    agent = watch_model(accelerator.unwrap_model(model), optimizer=inner, **options)
    watched = AcceleratedAgent(accelerator, agent)
    accelerator.register_for_checkpointing(watched)
    return watched
