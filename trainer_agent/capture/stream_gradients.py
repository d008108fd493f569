"""The gradient of a tensor of the stream, over all backward passes of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from trainer_agent.capture.notes import Notes

# What gradients that wait for others of their tensor may hold together: this share of a GPU's
# memory, so many bytes elsewhere. Their graph is retained, and holds many times as much.
WAITING_SHARE = 1 / 64
WAITING_BYTES = 1 << 28
TWICE = (
    "several backward passes go over one forward pass, and their gradients could not be added "
    "up: the stream's gradients of those passes are left out"
)

Counted = TypeVar("Counted")


class StreamGradient(Generic[Counted]):
    """The gradient of one tensor, which several backward passes may bring in parts.

    Attributes:
        waiting: the sum of the parts that have come, where there may be more.
        step: in which it was counted or given up, None before.
        differentiated: whether a pass has made its own gradients differentiable.
    """

    __slots__ = ("_count", "_counted", "_version", "differentiated", "step", "waiting")

    def __init__(self, count: Callable[[Tensor], Counted]) -> None:
        """Prepare; `count` takes the sums of a gradient, and returns what can be withdrawn."""
        self._count = count
        self._counted: Counted | None = None
        self._version = 0
        self.waiting: Tensor | None = None
        self.step: int | None = None
        self.differentiated = False

    def note_pass(self) -> None:
        """Note how the pass that brings a part was asked for."""
        # Gradients are enabled while a pass makes its own differentiable.
        self.differentiated |= torch.is_grad_enabled()

    def put(self, total: Tensor) -> None:
        """Have `total` wait."""
        self.waiting, self._version = total, total._version

    def take(self) -> Tensor | None:
        """What waits, which the gradient then lets go; raises where it was written to."""
        total, self.waiting = self.waiting, None
        if total is not None and total._version != self._version:
            raise RuntimeError("a gradient was written to before its other parts came")
        return total

    def count(self, total: Tensor, step: int) -> None:
        """Count the sum of the parts, in this step."""
        self.step = step
        self._counted = self._count(total)

    def give_up(self, step: int) -> None:
        """Let go what waits, and take no part any more."""
        self.step, self.waiting = step, None

    def withdraw(self) -> Counted | None:
        """What was counted, once: it was but a part."""
        counted, self._counted = self._counted, None
        return counted


class StreamGradients(Generic[Counted]):
    """Counts each gradient once, as the sum of the parts that backward passes bring.

    What reaches the parameters is that sum, and its square is not the sum of the parts' squares.
    A part after which another may come, because its graph is retained, waits until the step ends.
    """

    def __init__(self, withdraw: Callable[[Counted], None], notes: Notes) -> None:
        """Prepare; `withdraw` takes back what was counted of a gradient that was but a part."""
        self._withdraw, self._notes = withdraw, notes
        self._waiting: list[StreamGradient[Counted]] = []
        self._bytes = self._step = 0

    @torch.no_grad()
    def add(self, gradient: StreamGradient[Counted], g: Tensor, *, retains: bool) -> None:
        """Add what a backward pass brings; `retains`: another pass may bring more."""
        if gradient.step is not None:
            self._withdraw_from(gradient)
            return
        was_waiting, before = gradient.waiting is not None, gradient.take()
        total = g.detach() if before is None else before + g.detach()
        if not retains or not (was_waiting or self._has_room(total)):
            gradient.count(total, self._step)
            return
        if not was_waiting:
            self._waiting.append(gradient)
            self._bytes += total.nbytes
        gradient.put(total)

    def end_step(self) -> None:
        """Count what waits."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        for gradient in waiting:
            total = gradient.take()
            if total is not None:
                gradient.count(total, self._step)
        self._step += 1

    def forget(self) -> None:
        """Let go what waits, uncounted."""
        for gradient in self._waiting:
            gradient.give_up(self._step)
        self._waiting, self._bytes = [], 0
        self._step += 1

    def _withdraw_from(self, gradient: StreamGradient[Counted]) -> None:
        counted = gradient.withdraw()
        if counted is not None and gradient.step == self._step:
            self._withdraw(counted)
        self._notes.say("several backward passes", TWICE)

    def _has_room(self, total: Tensor) -> bool:
        return self._bytes + total.nbytes <= _room(total.device)


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return WAITING_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory * WAITING_SHARE)
