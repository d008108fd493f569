"""Dense maps and norms in a traced graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer_agent.description.read.packed_attention import OP, packed_argument
from trainer_agent.description.read.parts import Latent, LinearPart
from trainer_agent.description.read.tolerance import close
from trainer_agent.description.trace.graph import (
    ADDS,
    SCALES,
    VIEWS,
    Run,
    UnrecognisedError,
    argument,
    feature_runs,
    strip,
    unscale,
)
from trainer_agent.description.trace.tracer import Node

MATMULS = frozenset({"matmul", "__matmul__", "mm"})
TRANSPOSES = frozenset({"t", "T", "mT", "transpose", "swapaxes", "permute"})


@dataclass(frozen=True, slots=True)
class Update:
    """What is added to a map: `factor` times two others, one after the other (LoRA)."""

    up: LinearCall
    down: LinearCall
    factor: float


@dataclass(frozen=True, slots=True)
class LinearCall:
    """One use of a dense map: output = gain * (input @ weight (+ bias) (+ update))."""

    output: Node
    input: Node
    weight: Node
    bias: Node | None
    input_first: bool
    gain: str | None = None
    update: Update | None = None

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
            gain=self.gain,
            update=self._update(taken),
        )

    def _update(self, taken: Node | None) -> tuple[LinearPart, float] | None:
        if self.update is None:
            return None
        up = replace(self.update.up, output=self.output).part(taken)
        return replace(up, latent=Latent(self.update.down.part())), self.update.factor

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
        return _with_bias(node) or _with_update(node)
    if node.op in SCALES or node.op == "module":
        return _with_gain(node)
    return _handed_on(node) if node.op == "alias" else _packed(node)


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


def _with_update(node: Node) -> LinearCall | None:
    """A map, and a product of two smaller ones on the same input added to it."""
    for first, second in (node.args, node.args[::-1]):
        if not isinstance(first, Node) or not isinstance(second, Node):
            return None
        added = unscale(second)
        up = linear_call(added.node) if not added.p_drop else None
        down = None if up is None else linear_call(strip(up.input))
        base = None if down is None else linear_call(strip(first))
        if up is None or down is None or base is None or base.update is not None:
            continue
        if unscale(down.input).node is strip(base.input) and up.d_out == base.d_out:
            return replace(base, output=node, update=Update(up, down, added.factor))
    return None


def _with_gain(node: Node) -> LinearCall | None:
    """A map whose outputs are multiplied by a vector (LayerScale), in a module or not."""
    if node.op == "module":
        if len(node.vectors) != 1 or not node.inputs:
            return None
        (name, vector), source = next(iter(node.vectors.items())), node.inputs[0]
        call = linear_call(strip(source)) if vector.shape == source.value.shape[-1:] else None
        is_gain = call is not None and close(source.value * vector, node.value)
        return _gained(call, node, f"{node.where}.{name}") if is_gain else None
    for vector_node, product in (node.args, node.args[::-1]) if len(node.args) == 2 else ():
        if isinstance(vector_node, Node) and isinstance(product, Node) and _is_vector(vector_node):
            call = linear_call(strip(product))
            if call is not None and vector_node.value.shape == node.value.shape[-1:]:
                return _gained(call, node, vector_node.where)
    return None


def gain_over_dropout(node: Node) -> tuple[float, float, LinearCall] | None:
    """(factor, dropout, map) of a vector times a map's output that had dropout: either order."""
    for vector, product in (node.args, node.args[::-1]) if node.op in SCALES else ():
        if isinstance(vector, Node) and isinstance(product, Node) and _is_vector(vector):
            inner = unscale(product)
            call = _gained(linear_call(inner.node), node, vector.where)
            if call is not None and vector.value.shape == node.value.shape[-1:]:
                return inner.factor, inner.p_drop, call
    return None


def _gained(call: LinearCall | None, node: Node, name: str) -> LinearCall | None:
    return None if call is None or call.gain else replace(call, output=node, gain=name)


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
