"""Streams as (batch, seq, features), however the model holds them, and their padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer_agent.capture.notes import Notes
from trainer_agent.capture.padding import fitting
from trainer_agent.capture.statistics.tensor_sums import TensorSums
from trainer_agent.capture.token_axis import (
    BATCH_FIRST,
    SUBJECT,
    UNKNOWN,
    TokenAxes,
    batch_first,
    by_attention,
    heads_apart,
)
from trainer_agent.model.plan import Plan, stage_suffix

NO_SHAPE = torch.Size()


class Early(NamedTuple):
    """A tensor that was counted before the token axis was told: its row, version and sums."""

    row: int
    x: Tensor
    version: int
    sums: TensorSums


class Orientation:
    """Knows the token axis and the padding of every stack, and what was counted too early.

    A stack goes by its first block: until the first pass is over it may get another name.
    """

    def __init__(self, axes: TokenAxes, notes: Notes) -> None:
        self._axes, self._notes = axes, notes
        self._shapes: dict[str, torch.Size] = {}
        self._masks: dict[str, Tensor | None] = {}
        self._early: list[Early] = []
        self._first_blocks: dict[str, str] = {}
        self._last_stacks: dict[str, str] = {}

    def follow(self, plan: Plan) -> None:
        """Take the stacks of a plan."""
        self._first_blocks = {stack.name: stack.blocks[0] for stack in plan.stacks}
        # The stack of each chunk whose mask holds outside its stacks.
        self._last_stacks = {stage_suffix(stack.name): stack.name for stack in plan.stacks}

    def rename(self, names: Mapping[str, str]) -> None:
        """Keep the running pass's masks under the names that the stacks have now."""
        self._masks = {names[name]: mask for name, mask in self._masks.items() if name in names}

    def begin_pass(
        self, masks: dict[str, Tensor | None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Note the padding masks, (batch, seq), of a pass, by stack, and what forward is given."""
        self._masks = masks
        self._axes.note_inputs(args, kwargs)

    def padding(self, stack: str) -> Tensor | None:
        """The mask of a stack, or of a chunk outside its stacks."""
        return self._masks.get(self._last_stacks.get(stack, stack))

    def axis(self, stack: str) -> int | None:
        """The token axis, None where it is not known; outside of stacks it is 1."""
        first_block = self._first_blocks.get(stack)
        return BATCH_FIRST if first_block is None else self._axes.of(first_block)

    def batch_first(self, stack: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """A stream of the stack as (batch, seq, features), and the mask of its padding."""
        if x.ndim == 2 and len(self._shape(stack)) == 3:
            return x, fitting(self.padding(stack), x)  # of a branch that joins batch and tokens
        return batch_first(x, self.padding(stack), self.axis(stack))

    def is_unsettled(self, stack: str) -> bool:
        """Whether the token axis may still be told."""
        first_block = self._first_blocks.get(stack)
        return first_block is not None and not self._axes.is_settled(first_block)

    def by_input(self, stack: str, x: Tensor) -> int | None:
        """Note the stack's input; the axis that token ids tell of it, where that is open."""
        self._shapes[stack] = x.shape
        return self._axes.by_inputs(x) if self.is_unsettled(stack) else None

    def by_attention(self, stack: str, call: tuple[int, int] | None) -> int | None:
        """The axis that a call of so many sequences and queries tells; says where none is known."""
        axis = None if call is None else by_attention(self._shape(stack), *call)
        if axis is None and self.axis(stack) is None:
            self._notes.say(SUBJECT, UNKNOWN)
        return axis

    def heads_apart(self, stack: str, scores: Tensor) -> Tensor | None:
        """`token_axis.heads_apart` for the stack's stream."""
        return heads_apart(scores, self._shape(stack))

    def remember(self, row: int, x: Tensor, sums: TensorSums) -> None:
        """Remember a count of the running block, to be taken again with another axis."""
        # Detached: the job's graph is not to live longer.
        self._early.append(Early(row, x.detach(), x._version, sums))

    def forget(self) -> None:
        """Let go what was counted early."""
        self._early = []

    def settle(self, stack: str, axis: int) -> list[Early] | None:
        """Take the axis that was told; what was counted with another one, None where none was."""
        early, self._early = self._early, []
        self._notes.say(SUBJECT, "")
        return early if self._axes.settle(self._first_blocks[stack], axis) else None

    def _shape(self, stack: str) -> torch.Size:
        return self._shapes.get(stack, NO_SHAPE)
