"""What decoder blocks read of another stack: its last block's output, a norm and dropout later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from trainer_agent.description.read.norms import norm_call
from trainer_agent.description.read.parts import NormPart
from trainer_agent.description.trace.graph import unscale
from trainer_agent.description.trace.tracer import Node, Trace


@dataclass(frozen=True, slots=True)
class Memory:
    """dropout(norm(output of `block`))."""

    block: str
    norm: NormPart | None
    p_drop: float


@dataclass(slots=True)
class Memories:
    """Outputs of stacks that later blocks are given, known by the tensor they are in."""

    model: nn.Module
    after: tuple[str, Node] | None = None
    known: dict[int, tuple[Tensor, Memory]] = field(default_factory=dict)

    def follow(self, block: str, output: Tensor, trace: Trace) -> None:
        """Trace what becomes of a stack's output, until the next block is called."""
        self.after = (block, trace.begin(block, output, limit=32))

    def note(self, given: Iterable[object], trace: Trace) -> None:
        """Look among the arguments of the next block for what the stack's output became."""
        if self.after is None:
            return
        for value in given:
            node = trace.of_tensor.get(id(value)) if isinstance(value, Tensor) else None
            memory = self._memory(node, *self.after) if node is not None else None
            if node is not None and memory is not None:
                self.known[id(value)] = (node.value, memory)
        self.after = None

    def of(self, node: Node) -> Memory | None:
        """What a block reads, None where it is not a stack's output seen here."""
        found = self.known.get(id(node.value))
        return found[1] if found else None

    def _memory(self, node: Node, block: str, output: Node) -> Memory | None:
        outer = unscale(node)
        normed = norm_call(outer.node, self.model)
        inner = unscale(normed.input) if normed else outer
        p_drop = outer.p_drop
        if inner.node is not output or outer.factor != 1.0 or (normed and inner.p_drop):
            return None
        return Memory(block, normed.part if normed else None, p_drop)
