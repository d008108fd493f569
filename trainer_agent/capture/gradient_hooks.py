"""Hooks that wait for the gradient of a tensor, and for the end of its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.listeners import BackwardListener

OnGradient = Callable[[Tensor], None]


def on_gradient(x: Tensor, call: OnGradient) -> RemovableHandle:
    """Call `call` with the gradient of `x`, in every backward pass that reaches it."""
    handle: RemovableHandle = x.register_hook(call)  # type: ignore[no-untyped-call]
    return handle


class GradientHooks:
    """Sets hooks that last for one backward pass.

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

        def once(g: Tensor) -> None:
            self._remove(place)
            call(g)

        self._remove(place)
        self._on_leaves[place] = on_gradient(x, once)

    def _remove(self, place: tuple[str, int, int]) -> None:
        handle = self._on_leaves.pop(place, None)
        if handle is not None:
            handle.remove()


class BackwardPasses:
    """Tells listeners of backward passes, each pass once."""

    def __init__(self) -> None:
        self._listeners: list[BackwardListener] = []
        self._running = -1

    def subscribe(self, listener: BackwardListener) -> None:
        """Have a listener called from now on."""
        self._listeners.append(listener)

    def reached(self, *, half: bool) -> None:
        """A backward pass has reached a stream; only the first call of each pass counts."""
        running = torch._C._current_graph_task_id()
        if running == self._running:
            return
        self._running = running
        for listener in self._listeners:
            listener.backward_begins(half=half)
        # From within a callback: data-parallel wrappers finish their gradients in one, too, and
        # the engine calls them in the order in which they were queued.
        _engine.queue_callback(lambda: _engine.queue_callback(self._end))

    def _end(self) -> None:
        for listener in self._listeners:
            listener.backward_ends()


_engine: Any = torch.autograd.Variable._execution_engine


def in_backward() -> bool:
    """Whether this thread runs inside a backward pass, as a checkpoint's recomputation does."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1
