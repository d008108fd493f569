"""Hooks that wait for the gradient of a tensor, and for the end of its backward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.backward_call import UNRECOGNISED, BackwardCall, running_call
from trainer_agent.capture.listeners import BackwardListener

OnGradient = Callable[[Tensor], None]


def on_gradient(x: Tensor, call: OnGradient) -> RemovableHandle:
    """Call `call` with the gradient of `x`, in every backward pass that reaches it."""
    handle: RemovableHandle = x.register_hook(call)  # type: ignore[no-untyped-call]
    return handle


class GradientHooks:
    """Sets hooks that last for one step.

    A hook goes with its tensor, but a pipeline receives into the same tensors in every step:
    there each step would leave one more.
    """

    def __init__(self) -> None:
        self._on_leaves: dict[tuple[str, int, int], RemovableHandle] = {}

    def add(self, stack: str, index: int, x: Tensor, call: OnGradient) -> None:
        """Call `call` with the gradient of the stream `x` at a place."""
        if not x.is_leaf:
            on_gradient(x, call)
            return
        place = stack, index, id(x)
        self._remove(place)
        self._on_leaves[place] = on_gradient(x, call)

    def end_step(self) -> None:
        """Take the hooks away that would stay."""
        for place in tuple(self._on_leaves):
            self._remove(place)

    def _remove(self, place: tuple[str, int, int]) -> None:
        handle = self._on_leaves.pop(place, None)
        if handle is not None:
            handle.remove()


class BackwardPasses:
    """Tells listeners of backward passes, each pass once.

    A reentrant checkpoint runs passes of its own inside one; the one around them counts.
    """

    def __init__(self) -> None:
        self._listeners: list[BackwardListener] = []
        self._thread = threading.get_ident()
        self._running = False
        self._call = -1, UNRECOGNISED

    def subscribe(self, listener: BackwardListener) -> None:
        """Have a listener called from now on."""
        self._listeners.append(listener)

    def forward_begins(self) -> None:
        """A forward pass begins outside of any backward pass: the last one is over, or failed."""
        self._running, self._thread = False, threading.get_ident()

    def call(self) -> BackwardCall:
        """How the backward pass that now runs was called."""
        task = torch._C._current_graph_task_id()
        if task != self._call[0]:
            self._call = task, running_call(self._thread)
        return self._call[1]

    def reached(self, *, half: bool) -> None:
        """A backward pass has reached a stream; only the first call of each pass counts."""
        if self._running:
            return
        self._running = True
        for listener in self._listeners:
            listener.backward_begins(half=half)
        # From within a callback: data-parallel wrappers finish their gradients in one, too, and
        # the engine calls them in the order in which they were queued.
        _engine.queue_callback(lambda: _engine.queue_callback(self._end))

    def _end(self) -> None:
        self._running = False
        for listener in self._listeners:
            listener.backward_ends()


_engine: Any = torch.autograd.Variable._execution_engine


def in_backward() -> bool:
    """Whether this thread runs inside a backward pass, as a checkpoint's recomputation does."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1
