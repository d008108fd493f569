"""Watches the optimizers of a script: finds their models, and ends it after two steps."""

from __future__ import annotations

import gc
import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trainer_agent.check.called_modules import CalledModules
from trainer_agent.check.delivery import CheckedAgents, WatchedModel
from trainer_agent.check.places import LoopPlace, framework_of, place_of
from trainer_agent.check.script import EnoughSteps

STEPS = 2
# Of a second optimizer that steps more rarely, as that of a GAN's generator, no more is awaited.
MOST_STEPS = 20
# Loops that go on whatever a step raises are not waited for any longer.
MOST_REFUSALS = 20


class StepWatcher:
    """Has every model of a script watched, from the first step of its optimizer on.

    Attributes:
        steps: how many steps each optimizer has made.
        place: where the script's loop makes its optimizer step, None before.
        apart: types of further modules that the loop calls, and that have the same optimizer.
    """

    def __init__(self, agents: CheckedAgents) -> None:
        self._agents = agents
        self._called = CalledModules()
        self._refusals = 0
        self._leaders: dict[Optimizer, WatchedModel] = {}
        self.steps: Counter[Optimizer] = Counter()
        self.place: LoopPlace | None = None
        self.apart: dict[str, None] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch every optimizer of the process within the context."""
        handles = (
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        )
        try:
            yield
        finally:
            self._called.remove()
            for handle in handles:
                handle.remove()

    @property
    def total(self) -> int:
        """Steps of the optimizer that made most."""
        return max(self.steps.values(), default=0)

    def _before(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        # The script's own agent is told of a step only after the optimizer's: that of the last
        # step has been by now.
        if self._is_over() or self._refusals:
            self._stop()

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self.steps[optimizer] += 1
        frame = sys._getframe(1)
        if not self._is_followed(optimizer):
            self._follow(optimizer, frame)
        elif optimizer in self._leaders:
            self._leaders[optimizer].agent.step()
        by_script = any(watched.by_script for watched in self._agents.watched)
        if self._is_over() and not by_script:
            self._stop()

    def _is_over(self) -> bool:
        return bool(self.steps) and (min(self.steps.values()) >= STEPS or self.total >= MOST_STEPS)

    def _is_followed(self, optimizer: Optimizer) -> bool:
        return self.steps[optimizer] > 1 or any(
            optimizer in watched.optimizers for watched in self._agents.watched
        )

    def _follow(self, optimizer: Optimizer, frame: FrameType) -> None:
        if any(watched.by_script for watched in self._agents.watched):
            return
        models = self._called.of(_parameters(optimizer))
        if not models:
            return
        model = models[0]
        self.apart |= dict.fromkeys(type(m).__name__ for m in models[1:])
        optimizers = [optimizer, *_others_of(model, optimizer)]
        place = place_of(frame, model, optimizer)
        self.place = self.place or place
        # Lightning computes gradients inside the optimizer's step: a hook on it comes too early.
        inside = framework_of(frame) == "lightning"
        with redirect_stdout(io.StringIO()):  # the address of a page that there is not
            watched = self._agents.watch(
                model, optimizers, optimizer=None if inside else optimizers
            )
        if inside:
            for each in optimizers:
                watched.agent.follow_updates(each)
        self._leaders[optimizer] = watched

    def _stop(self) -> None:
        if not self._refusals:
            self._agents.close()
        self._refusals += 1
        if self._refusals <= MOST_REFUSALS:
            raise EnoughSteps(0)
        raise KeyboardInterrupt


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _others_of(model: nn.Module, optimizer: Optimizer) -> list[Optimizer]:
    """Further optimizers of the process that hold parameters of a model."""
    parameters = {id(p) for p in model.parameters()}
    # By type: to ask for the class of whatever lives in a process may run code of its own.
    optimizers = [o for o in gc.get_objects() if issubclass(type(o), Optimizer)]
    hooked = [o for o in optimizers if o is not optimizer and "param_groups" in vars(o)]
    return [o for o in hooked if not parameters.isdisjoint(_parameters(o))]
