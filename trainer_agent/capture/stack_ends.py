"""Tells listeners of the ends of each stack: its input, and the gradient at its top."""

from __future__ import annotations

from torch import Tensor

from trainer_agent.capture.listeners import StreamListener
from trainer_agent.capture.orientation import Orientation
from trainer_agent.capture.token_axis import batch_first
from trainer_agent.model.dtensor import local_part
from trainer_agent.model.plan import stage_suffix

Tokens = tuple[Tensor, Tensor | None]


class StreamListeners:
    """The listeners of each chunk. They are told of streams whose token axis is known."""

    def __init__(self, orientation: Orientation) -> None:
        self._orientation = orientation
        self._listeners: dict[str, StreamListener] = {}

    def subscribe(self, listener: StreamListener, suffix: str) -> None:
        """Give a listener the stacks of the chunk whose names end with `suffix`."""
        self._listeners[suffix] = listener

    def stack_input(self, stack: str, x: Tensor, mask: Tensor | None) -> None:
        """A stack's input, as the model holds it, and its padding mask."""
        suffix, tokens = stage_suffix(stack), self._tokens(stack, x, mask)
        if tokens is not None:
            self._listeners[suffix].stack_input(stack.removesuffix(suffix), *tokens)

    def top_gradient(self, stack: str, g: Tensor, mask: Tensor | None) -> None:
        """The gradient at a stack's top."""
        suffix, tokens = stage_suffix(stack), self._tokens(stack, g, mask)
        if tokens is not None:
            self._listeners[suffix].top_gradient(stack.removesuffix(suffix), *tokens)

    def turned(self, stack: str) -> None:
        """The stack's token axis is another than its input was told with."""
        listener = self._listeners.get(stage_suffix(stack))
        if listener is not None:
            listener.input_was_turned()

    def _tokens(self, stack: str, x: Tensor, mask: Tensor | None) -> Tokens | None:
        """This process's part as (batch, seq, features), and its mask; None where nobody asks."""
        axis = self._orientation.axis(stack)
        if stage_suffix(stack) not in self._listeners or axis is None:
            return None
        x, mask = batch_first(x.detach(), mask, axis)
        part = local_part(x)
        return None if part is None else (part, mask if part.shape == x.shape else None)
