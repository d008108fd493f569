"""Dense maps and norms in a traced graph."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_agent.description.read.packed_attention import OP, packed_argument
from trainer_agent.description.read.parts import LinearPart
from trainer_agent.description.trace.graph import (
    ADDS,
    VIEWS,
    Run,
    UnrecognisedError,
    argument,
    feature_runs,
    strip,
)
from trainer_agent.description.trace.tracer import Node

MATMULS = frozenset({"matmul", "__matmul__", "mm"})
TRANSPOSES = frozenset({"t", "T", "mT", "transpose", "swapaxes", "permute"})


@dataclass(frozen=True, slots=True)
class LinearCall:
    """One use of a dense map: output = input @ weight (+ bias)."""

    output: Node
    input: Node
    weight: Node
    bias: Node | None
    input_first: bool

    @property
    def d_out(self) -> int:
        """Outputs of the whole map."""
        return int(self.weight.value.shape[1 if self.input_first else 0])

    @property
    def n_parts(self) -> int:
        """Over how many processes the outputs lie (tensor parallelism)."""
        return self.d_out // self.output.value.shape[-1]

    def part(self, taken: Node | None = None) -> LinearPart:
        """The map, or the slice of it that the view `taken` of the output takes."""
        runs = self._runs(taken)
        return LinearPart(
            weight=self.weight.where,
            bias=self.bias.where if self.bias else None,
            d_in=self.weight.value.shape[0 if self.input_first else 1],
            d_out=sum(stop - start for start, stop in runs),
            outputs=runs,
            input_first=self.input_first,
        )

    def _runs(self, taken: Node | None) -> tuple[Run, ...]:
        every_output = ((0, self.d_out),)
        if taken is None:
            return every_output
        runs, d_here = feature_runs(taken, self.output), self.output.value.shape[-1]
        if d_here == self.d_out:
            return runs
        if runs != ((0, d_here),):
            # Which outputs of the whole map these are depends on how the processes share it.
            raise UnrecognisedError(taken, "fused map", "its outputs lie over several processes")
        return every_output


def linear_call(node: Node) -> LinearCall | None:
    """The dense map a node is the output of, else None."""
    if node.op == "linear":
        return _call(node, node.args[0], argument(node, 1, "weight"), argument(node, 2, "bias"))
    if node.op == "addmm" and not ({"alpha", "beta"} & set(node.kwargs)):
        bias, x, weight = node.args[:3]
        return _call(node, x, weight, bias, input_first=True)
    if node.op in MATMULS:
        return _call(node, node.args[0], node.args[1], None, input_first=True)
    if node.op in ADDS and len(node.args) == 2:
        return _with_bias(node)
    if node.op == "alias":
        return _handed_on(node)
    return _packed(node)


def _handed_on(node: Node) -> LinearCall | None:
    """A map whose output a hook has put together from several processes, or taken a part of."""
    call = linear_call(node.inputs[0])
    if call is None:
        return None
    return LinearCall(node, call.input, call.weight, call.bias, call.input_first)


def _packed(node: Node) -> LinearCall | None:
    """The output projection inside ``nn.MultiheadAttention``."""
    inner = strip(node, VIEWS)
    weight = packed_argument(inner, "out_proj_weight") if inner.op == OP else None
    if weight is None or inner.select != 0:
        return None
    return LinearCall(node, inner, weight, packed_argument(inner, "out_proj_bias"), False)


def _with_bias(node: Node) -> LinearCall | None:
    """A product with a parameter, and a parameter vector added to it."""
    for product, bias in (node.args, node.args[::-1]):
        if isinstance(product, Node) and isinstance(bias, Node) and _is_vector(bias):
            inner = linear_call(strip(product))
            if inner is not None and inner.bias is None:
                return LinearCall(node, inner.input, inner.weight, bias, inner.input_first)
    return None


def _call(
    node: Node, x: Node, weight: Node, bias: Node | None, *, input_first: bool = False
) -> LinearCall | None:
    weight, bias = strip(weight), strip(bias) if isinstance(bias, Node) else None
    if weight.op in TRANSPOSES:
        weight, input_first = strip(weight.inputs[0]), not input_first
    is_matrix = weight.op == "parameter" and weight.value.ndim == 2
    if not is_matrix or (bias is not None and bias.op != "parameter"):
        return None
    return LinearCall(node, strip(x), weight, bias, input_first)


def _is_vector(node: Node) -> bool:
    return node.op == "parameter" and node.value.ndim == 1
