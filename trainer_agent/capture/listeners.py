"""Protocols of what listens to a sampled step, in the thread that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class StreamListener(Protocol):
    """Is given the ends of each stack, by the name that the stack has in its chunk."""

    def stack_input(self, stack: str, x: Tensor, mask: Tensor | None) -> None:
        """The input of the stack's first block, (batch, seq, features), and its padding mask."""

    def top_gradient(self, stack: str, g: Tensor, mask: Tensor | None) -> None:
        """The gradient of the last block's output, of the same shape."""

    def input_was_turned(self) -> None:
        """The inputs of the running step had batch and seq the other way round."""


class PassListener(StreamListener, Protocol):
    """Is also told of a chunk's forward passes."""

    def pass_begins(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward pass of the chunk begins on these arguments."""

    def pass_ends(self, output: Any) -> None:
        """That pass is over and gave this output; None where it raised."""


class BackwardListener(Protocol):
    """Is called as a backward pass begins and once it is over."""

    def backward_begins(self, *, half: bool) -> None:
        """A backward pass reaches the first stream; `half`: float16 was in the forward pass."""

    def backward_ends(self) -> None:
        """It is over, and the parameters have their gradients."""
