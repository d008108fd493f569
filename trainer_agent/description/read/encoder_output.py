"""What decoder blocks read of another stack: its last block's output, a norm and dropout later."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from trainer_agent.description.read.norms import norm_call
from trainer_agent.description.read.parts import NormPart
from trainer_agent.description.trace.graph import unscale
from trainer_agent.description.trace.module_calls import Arguments, pairs_of
from trainer_agent.description.trace.tracer import Node, Trace, tensors_in

MAX_NODES = 32  # between one stack and the next


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """dropout(norm(output of `block`))."""

    block: str
    norm: NormPart | None
    p_drop: float


@dataclass(slots=True)
class EncoderOutputs:
    """Outputs of stacks that later blocks are called with, by the tensor they are in."""

    model: nn.Module
    _after: tuple[str, Node] | None = None
    _by_tensor: dict[int, tuple[Tensor, EncoderOutput]] = field(default_factory=dict)

    def trace_from(self, block: str, output: Tensor, trace: Trace) -> None:
        """Trace what becomes of a stack's output, until the next block is called."""
        self._after = (block, trace.begin(block, output, limit=MAX_NODES))

    def note(self, before: Arguments, args: Arguments, trace: Trace) -> None:
        """Look among the arguments of the next block for what the stack's output became.

        A block that is a unit of FSDP computes on other tensors than it was called with `before`.
        """
        if self._after is not None:
            for tensor in tensors_in(before):
                node = trace.find(tensor)
                read = self._read(node, *self._after) if node is not None else None
                if read is not None:
                    self._by_tensor[id(tensor)] = (tensor, read)
            self._after = None
        for tensor, handed_on in pairs_of(before, args):
            source, read = self._by_tensor.get(id(tensor), (None, None))
            if source is tensor and read is not None:
                self._by_tensor[id(handed_on)] = (handed_on, read)

    def of(self, node: Node) -> EncoderOutput | None:
        """What a block reads, None where it is not the output of a stack."""
        tensor, read = self._by_tensor.get(id(node.tensor), (None, None))
        return read if tensor is node.tensor else None

    def _read(self, node: Node, block: str, output: Node) -> EncoderOutput | None:
        outer = unscale(node)
        normed = norm_call(outer.node, self.model)
        inner = unscale(normed.input) if normed else outer
        p_drop = outer.p_drop
        if inner.node is not output or outer.factor != 1.0 or (normed and inner.p_drop):
            return None
        return EncoderOutput(block, normed.part if normed else None, p_drop)
