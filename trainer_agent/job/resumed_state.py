"""Whether a job that goes on from a later step has an optimizer that remembers nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from trainer_agent.capture.guard import Guard
from trainer_agent.job.parameters import UpdateHooks

LATE_STEP = 20  # a job that numbers its steps from here on has run before
NOT_LOST = -1


class ResumedState:
    """Looks at optimizers around their first update within the agent.

    An optimizer that has no state before it, and has some after it, kept nothing: it is new, or
    its state was not loaded. Steps are numbered one by one, else their numbers say nothing of how
    often the optimizer stepped. All methods belong to the training thread; nothing waits for a
    device.

    Attributes:
        lost_at: number of the first step, where the job went on without its optimizer's state;
            else `NOT_LOST`.
        is_open: whether `end_step` is still to be called.
    """

    def __init__(self, optimizers: Sequence[Optimizer], guard: Guard) -> None:
        self.lost_at, self.is_open = NOT_LOST, bool(optimizers)
        self._guard = guard
        self._empty: dict[int, bool] = {}
        self._lost = False
        self._first_step: int | None = None
        self._hooks = [
            UpdateHooks(optimizer, self._before, self._after, enabled=lambda: self.is_open)
            for optimizer in optimizers
        ]

    def end_step(self, step: int) -> None:
        """Note the number of a step that has ended; the second one decides."""
        if self._first_step is None:
            self._first_step = step
            self.is_open = step >= LATE_STEP
        else:
            self.is_open = False
            if self._lost and step == self._first_step + 1:
                self.lost_at = self._first_step
        if not self.is_open:
            self.remove()

    def remove(self) -> None:
        """Take the hooks away."""
        self.is_open = False
        for hooks in self._hooks:
            hooks.remove()
        self._hooks = []

    def _before(self, optimizer: Optimizer) -> None:
        with self._guard.at("optimizer_state"):
            self._empty.setdefault(id(optimizer), not _remembers(optimizer))

    def _after(self, optimizer: Optimizer) -> None:
        with self._guard.at("optimizer_state"):
            was_empty = self._empty.get(id(optimizer), False)
            self._empty[id(optimizer)] = False
            self._lost = self._lost or (was_empty and _remembers(optimizer))


def _remembers(optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps anything of its parameters' past."""
    states: Any = getattr(optimizer, "state", {})
    return any(
        value is not None
        for state in states.values()
        if isinstance(state, dict)
        for value in state.values()
    )
