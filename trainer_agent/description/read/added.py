"""What a block's branches add to the stream, and the modules that put it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from trainer_agent.description.read.linears import linear_call
from trainer_agent.description.read.norms import norm_call
from trainer_agent.description.read.packed_attention import OP
from trainer_agent.description.read.parts import Added, BlockParts
from trainer_agent.description.trace.graph import (
    ADDS,
    Scaled,
    ancestors,
    strip,
    terms,
    unscale,
)
from trainer_agent.description.trace.module_calls import ModuleCall
from trainer_agent.description.trace.tracer import Node

FUSED = frozenset({"scaled_dot_product_attention", OP, "flex_attention"})
SUMS = ADDS | {"lerp"}
SCORES_NDIM = 4  # (batch, heads, queries, keys); a router's scores have fewer dimensions


@dataclass(frozen=True, slots=True)
class AddedReader:
    """Reads one block's sums backwards from its output.

    The stream's way through a block is sums, numbers, reshapes and norms; what is added on it is a
    branch. Dropout and numbers on a branch are taken off, and the module whose output is left is
    looked for: a projection, a norm on the branch, a layer scale, ``nn.MultiheadAttention``.
    """

    stream: Node
    calls: Mapping[str, ModuleCall]
    model: nn.Module

    def of(self, output: Node, parts: BlockParts | None) -> dict[str, Added]:
        """By site what its branch adds; a site whose branch cannot be told is left out."""
        branches = list(self._branches(output))[::-1]
        sites = [self._site(branch, parts) for branch in branches]
        paths = self._paths()
        added: dict[str, Added] = {}
        for site, branch in zip(sites, branches, strict=True):
            alone = sites.count(site) == 1
            # A decoder's attention to itself comes before the one to another stack.
            if site and (alone or (site == "attention" and site not in added)):
                path = paths.get(id(strip(branch.node)))
                added.setdefault(site, Added(path, branch.factor))
        return added

    def steps_to(self, output: Node) -> int:
        """Residual sums on the stream's way to a node; 0 where that way cannot be told."""
        steps, node = 0, unscale(output).node
        while node is not self.stream:
            both = self._terms(node)
            leading = [term.node for term in both if self._leads(term.node)]
            norm = norm_call(node, self.model) if not both else None
            if norm is None and len(leading) != 1:
                return 0
            steps += norm is None
            node = unscale(leading[0] if norm is None else norm.input).node
        return steps

    def _branches(self, output: Node) -> Iterator[Scaled]:
        """What is added on the stream's way, last first; nothing where that way cannot be told."""
        total = unscale(output)
        while total.node is not self.stream:
            norm = norm_call(total.node, self.model)
            if norm is not None:
                total = unscale(norm.input)
                continue
            both = self._terms(total.node)
            leading = [self._leads(term.node) for term in both]
            if leading.count(True) != 1:
                return
            skip, branch = both if leading[0] else both[::-1]
            skipped = strip(total.node.args[0 if leading[0] else 1])
            factor = total.factor * branch.factor
            yield from self._split(Scaled(factor, branch.p_drop, branch.node))
            # A number on the sum is the former step's where the branch reads the product.
            is_read = skipped in ancestors(branch.node, lambda node: node is self.stream)
            total = unscale(skipped) if is_read else Scaled(1.0, 0.0, skip.node)

    def _leads(self, node: Node) -> bool:
        """Whether a node is on the stream's way."""
        node = unscale(node).node
        if node is self.stream:
            return True
        both = self._terms(node)
        if both:
            return any(self._leads(term.node) for term in both)
        norm = norm_call(node, self.model)
        return norm is not None and self._leads(norm.input)

    def _split(self, branch: Scaled) -> Iterator[Scaled]:
        """The addends of parallel branches; the output of a module is one."""
        is_output = any(self._is_output(call, branch.node) for call in self.calls.values())
        both = () if is_output else self._terms(branch.node)
        if not both:
            yield branch
        for term in both[::-1]:
            yield from self._split(Scaled(branch.factor * term.factor, term.p_drop, term.node))

    def _terms(self, node: Node) -> tuple[Scaled, ...]:
        if node.op not in SUMS or linear_call(node) is not None:
            return ()
        return terms(node) or ()

    def _site(self, branch: Scaled, parts: BlockParts | None) -> str:
        nodes = ancestors(branch.node, lambda node: self._terms(node) != () or node is self.stream)
        if parts is not None:
            weights = {
                "attention": parts.attention.output.weight,
                "feed_forward": parts.feed_forward.down.weight,
            }
            names = {node.where for node in nodes if node.op == "parameter"}
            return next((site for site, weight in weights.items() if weight in names), "")
        return "attention" if any(map(_is_attention, nodes)) else "feed_forward"

    def _paths(self) -> dict[int, str]:
        """By what they put out, the innermost modules that were called once."""
        paths: dict[int, str] = {}
        for path, call in self.calls.items():
            if call.node is not None and call.number == 1:
                paths.setdefault(id(strip(call.node)), path)
        return paths

    def _is_output(self, call: ModuleCall, node: Node) -> bool:
        return call.node is not None and strip(call.node) is strip(node)


def _is_attention(node: Node) -> bool:
    return node.op in FUSED or (node.op == "softmax" and node.value.ndim == SCORES_NDIM)
