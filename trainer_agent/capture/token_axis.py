"""Which axis of a stream counts the tokens of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.capture.padding import fitting
from trainer_agent.model.blocks import members

BATCH_FIRST, SEQUENCE_FIRST = 1, 0
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
UNKNOWN = (
    "whether the streams are (batch, seq, features) or (seq, batch, features) cannot be told: no "
    "token correlation until a batch shows it, or watch is given token_axis=0 or token_axis=1"
)
SUBJECT = "token axis"


class TokenAxes:
    """The token axis of each stack's streams: 1 of (batch, seq, features), 0 of (seq, batch, ...).

    What the user says holds. Else the first attention call tells whose numbers of queries and of
    sequences differ, or token ids, (batch, seq), whose axes the stream has the other way round.
    Until then it is 1, and None, not known, where a block holds an ``nn.MultiheadAttention``
    that takes the sequence first.
    """

    def __init__(self, requested: int | None = None, doubtful: Iterable[str] = ()) -> None:
        """Know nothing yet.

        Args:
            requested: the axis that the user names, or None.
            doubtful: paths of blocks whose attention takes the sequence first.
        """
        self._requested, self._doubtful = requested, frozenset(doubtful)
        self._axes: dict[str, int] = {}
        self._ids: tuple[tuple[int, int], ...] = ()

    def of(self, first_block: str) -> int | None:
        """The token axis of the stack that begins with this block, None where it is not known."""
        if self._requested is not None:
            return self._requested
        default = None if first_block in self._doubtful else BATCH_FIRST
        return self._axes.get(first_block, default)

    def is_settled(self, first_block: str) -> bool:
        """Whether nothing that comes could change it."""
        return self._requested is not None or first_block in self._axes

    def settle(self, first_block: str, axis: int) -> bool:
        """Note the axis that was told; whether it is another than before."""
        before = self.of(first_block)
        self._axes[first_block] = axis
        return axis != before

    def note_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note the shapes of token ids that the model's forward is given."""
        if self._requested is None:
            values = (*args, *kwargs.values())
            tensors = [v for v in values if isinstance(v, Tensor) and v.dtype in INTEGERS]
            self._ids = tuple((v.shape[0], v.shape[1]) for v in tensors if v.ndim == 2)

    def by_inputs(self, x: Tensor) -> int | None:
        """The axis that token ids tell for the input of a stack, or None."""
        if x.ndim != 3 or not self._ids or x.shape[0] == x.shape[1]:
            return None
        shape = x.shape[0], x.shape[1]
        turned = [ids == shape[::-1] for ids in self._ids]
        # Ids of the stream's own shape tell nothing: they may have the sequence first, too.
        return SEQUENCE_FIRST if any(turned) and shape not in self._ids else None


def by_attention(shape: torch.Size, n_sequences: int, n_queries: int) -> int | None:
    """The axis that an attention call tells for a stream of this shape, or None.

    Neither windows nor axes of an image tell: both numbers have to be there.
    """
    if len(shape) != 3 or n_sequences == n_queries:
        return None
    axes = {(n_sequences, n_queries): BATCH_FIRST, (n_queries, n_sequences): SEQUENCE_FIRST}
    return axes.get((shape[0], shape[1]))


def heads_apart(scores: Tensor, stream: torch.Size) -> Tensor | None:
    """Scores, (batch x heads, seq, seq), as (batch, heads, seq, seq), of a stream of this shape.

    None where they are no attention of several heads: a router's weights have no more rows.
    """
    if scores.ndim != 3 or len(stream) != 3 or scores.shape[1] != scores.shape[2]:
        return None
    for axis in (BATCH_FIRST, SEQUENCE_FIRST):
        n_sequences = stream[1 - axis]
        has_heads = len(scores) > n_sequences and len(scores) % n_sequences == 0
        if has_heads and scores.shape[1] == stream[axis]:
            return scores.reshape(n_sequences, -1, *scores.shape[1:])
    return None


def assumed(axis: int | None) -> int:
    """The axis to go by where none was told."""
    return BATCH_FIRST if axis is None else axis


def batch_first(x: Tensor, mask: Tensor | None, axis: int | None) -> tuple[Tensor, Tensor | None]:
    """A stream as (batch, seq, features), and its padding mask where that fits.

    Where the axis is not known, every token is a sequence of its own: variances are those of the
    stream, and there is no correlation. So is it with packed sequences, (tokens, features), of
    which nobody says where they begin.
    """
    if x.ndim == 2:
        return x.unsqueeze(1), None
    if axis == BATCH_FIRST or x.ndim != 3:
        return x, fitting(mask, x)
    if axis == SEQUENCE_FIRST:
        x = x.transpose(0, 1)
        return x, fitting(mask, x)
    mask = fitting(mask, x)
    return x.flatten(0, 1).unsqueeze(1), None if mask is None else mask.reshape(-1, 1)


def sequence_first_blocks(model: nn.Module, blocks: Iterable[str]) -> list[str]:
    """The blocks that hold an ``nn.MultiheadAttention`` which takes the sequence first."""
    return [path for path in blocks if any(map(_takes_it_first, _modules(model, path)))]


def _modules(model: nn.Module, path: str) -> Iterable[nn.Module]:
    return (module for item in members(path) for module in model.get_submodule(item).modules())


def _takes_it_first(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and not module.batch_first
