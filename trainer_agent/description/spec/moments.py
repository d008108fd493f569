"""Moments of today's weights, block by block, read with one copy to the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import dslm.spec as theory
from trainer_agent.description.hints import with_fields
from trainer_agent.description.read.parts import (
    Architecture,
    AttentionParts,
    BlockParts,
    CrossParts,
    ExpertParts,
    FeedForwardParts,
    HeadPart,
    LinearPart,
    NormPart,
)
from trainer_agent.description.read.position_bias import BiasPart
from trainer_agent.description.spec.kernels import Sizes
from trainer_agent.description.spec.labels import label_kernels
from trainer_agent.description.spec.weight_sums import Moments, Rows, Slice, WeightSums, weight_sums
from trainer_agent.description.trace.graph import Run
from trainer_agent.description.trace.unsharded import is_sharded
from trainer_agent.model.unwrap import unwrap

Blocks = dict[str, tuple[theory.Block | None, ...]]
Biases = Mapping[BiasPart, theory.PositionBias]
WHOLE: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Weighed:
    """The weights of one moment: what this process holds of them, or all processes together."""

    architecture: Architecture
    sums: WeightSums
    biases: Biases

    def added_up(self, add: Callable[[Rows], Rows]) -> Weighed:
        """The same over all processes, of which each holds a part of every parameter."""
        return replace(self, sums=self.sums.added_up(add))

    def blocks(self) -> Blocks:
        """Every block with E[w²], E[b²] and norm gains; None where not understood."""
        moments = self.sums.moments
        return {
            stack.name: tuple(
                None if b is None else _block(b, moments, self.biases) for b in stack.parts
            )
            for stack in self.architecture.stacks
        }

    def connections(self) -> dict[str, Connection]:
        """Each stack's connection, with the final norms' gains and the head's weights."""
        moments = self.sums.moments
        return {
            s.name: Connection(
                s.reads,
                _optional_norm(s.final_norm, moments),
                s.final_p_drop,
                None if s.head is None else _head(s.head, moments),
            )
            for s in self.architecture.stacks
        }


@torch.no_grad()
def weigh(architecture: Architecture, model: nn.Module) -> Weighed:
    """Read the weights of today that an architecture names.

    Reduces on the device in float32 and waits for it once. Raises KeyError when a parameter
    that `architecture` names is gone.
    """
    blocks = [b for stack in architecture.stacks for b in stack.parts if b is not None]
    slices = [s for block in blocks for s in _slices(block)]
    for stack in architecture.stacks:
        slices += _norm_slices(stack.final_norm) if stack.final_norm else ()
        slices += _head_slices(stack.head) if stack.head else ()
    parameters = dict(unwrap(model).named_parameters())
    return Weighed(architecture, weight_sums(parameters, slices), _biases(blocks, parameters))


def measure(architecture: Architecture, model: nn.Module) -> Blocks:
    """Every block with the weights of today; raises as `weigh` does."""
    return weigh(architecture, model).blocks()


def _biases(blocks: list[BlockParts], parameters: Mapping[str, Tensor]) -> Biases:
    """The position biases of today; a learned table is copied to the host, once for all layers.

    One that is sharded stays as the architecture's pass has seen it.
    """
    parts = {a.position_bias for block in blocks for a in block.attentions}
    return {part: _bias_of(part, parameters) for part in parts if part is not None}


def _bias_of(part: BiasPart, parameters: Mapping[str, Tensor]) -> theory.PositionBias:
    if part.table is None or is_sharded(parameters[part.table]):
        return part.observed
    return part.today(parameters[part.table])


@dataclass(frozen=True, slots=True)
class Connection:
    """How a stack hangs together with another; fields as in `dslm.spec.Stack`."""

    reads: str | None = None
    final_norm: theory.Norm | None = None
    final_p_drop: float = 0.0
    head: HeadWeights | None = None


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """A head's weights of today, and its parts."""

    part: HeadPart
    layers: tuple[theory.HeadLayer, ...]
    output: theory.Linear

    def on(self, cells: Callable[[int], Sizes]) -> theory.Head:
        """The head as the theory sees it, its labels on the cells of the input kernel."""
        return theory.Head(
            layers=self.layers,
            output=self.output,
            labels=label_kernels(self.part.labels, cells),
            scale=self.part.scale,
            soft_cap=self.part.soft_cap,
            tied=self.part.tied,
        )


def _slices(block: BlockParts) -> Iterator[Slice]:
    linears = list(_maps(block.feed_forward))
    for attention in block.attentions:
        linears += [attention.query, attention.key, attention.value, attention.output]
        if attention.sink:
            yield (attention.sink, WHOLE, 0)
    for linear in linears:
        yield from _linear_slices(linear)
    for norm in block.norms:
        yield from _norm_slices(norm)


def _maps(layer: FeedForwardParts) -> Iterator[LinearPart]:
    yield from (layer.up, layer.down)
    yield from (layer.gate,) if layer.gate else ()
    if layer.experts is not None:
        yield layer.experts.router
        yield from _maps(layer.experts.shared) if layer.experts.shared else ()
        yield from (layer.experts.shared_gate,) if layer.experts.shared_gate else ()


def _head_slices(head: HeadPart) -> Iterator[Slice]:
    yield from _linear_slices(head.output)
    for layer in head.layers:
        yield from _linear_slices(layer.linear) if layer.linear else ()
        yield from _norm_slices(layer.norm) if layer.norm else ()


def _linear_slices(linear: LinearPart) -> Iterator[Slice]:
    yield from _weights(linear)
    yield from _bias_slices(linear)
    if linear.latent is not None:
        yield from _linear_slices(linear.latent.down)
        yield from _norm_slices(linear.latent.norm) if linear.latent.norm else ()
    if linear.gain is not None:
        yield (linear.gain, WHOLE, 0)
    if linear.update is not None:
        yield from _linear_slices(linear.update[0])
    if linear.beside is not None:
        yield from _linear_slices(linear.beside)


def _norm_slices(norm: NormPart) -> Iterator[Slice]:
    names = (norm.weight, norm.bias, *norm.weights_of_heads)
    yield from ((name, WHOLE, 0) for name in names if name)


def _weights(linear: LinearPart) -> list[Slice]:
    names = (linear.weight, *(weight for weight, _ in linear.others))
    dim = linear.stacked + linear.input_first
    return [(name, linear.outputs, dim) for name in names]


def _bias_slices(linear: LinearPart) -> list[Slice]:
    names = (linear.bias, *(bias for _, bias in linear.others))
    return [(name, linear.outputs, int(linear.stacked)) for name in names if name]


def _mean_square(slices: list[Slice], moments: Moments) -> float:
    """Return the mean square over slices of one size; 0 of none."""
    return sum(moments[item][1] for item in slices) / max(len(slices), 1)


def _block(parts: BlockParts, moments: Moments, biases: Biases) -> theory.Block:
    block = theory.Block(
        placement=parts.placement,
        attention=_attention(parts.attention, moments, biases, _square(parts, moments)),
        attention_norm=_optional_norm(parts.attention_norm, moments),
        attention_residual=parts.attention_residual,
        feed_forward=_feed_forward(parts.feed_forward, moments),
        feed_forward_norm=_norm(parts.feed_forward_norm, moments),
        feed_forward_residual=parts.feed_forward_residual,
        attention_out_norm=_optional_norm(parts.attention_out_norm, moments),
        feed_forward_out_norm=_optional_norm(parts.feed_forward_out_norm, moments),
        cross=_cross(parts.cross, moments, biases) if parts.cross else None,
    )
    return with_fields(block, dict(parts.said))


def _head(part: HeadPart, moments: Moments) -> HeadWeights:
    layers = tuple(
        theory.HeadLayer(
            linear=_linear(x.linear, moments) if x.linear else None,
            activation=x.activation,
            norm=_optional_norm(x.norm, moments),
            p_drop=x.p_drop,
        )
        for x in part.layers
    )
    return HeadWeights(part, layers, _linear(part.output, moments))


def _cross(parts: CrossParts, moments: Moments, biases: Biases) -> theory.CrossAttention:
    return theory.CrossAttention(
        attention=_attention(parts.attention, moments, biases),
        norm=_norm(parts.norm, moments),
        residual=parts.residual,
        out_norm=_optional_norm(parts.out_norm, moments),
    )


def _linear(part: LinearPart, moments: Moments, input_square: float = 1.0) -> theory.Linear:
    """A map as the theory sees it; of two in a row the one that has their moments.

    With a norm between them the first one's scale drops out, and the second is given features of
    unit size, whatever the mean square of the input, `input_square`.
    """
    weight_var = _mean_square(_weights(part), moments)
    bias_var = _mean_square(_bias_slices(part), moments)
    latent, d_in = part.latent, part.d_in
    if latent is not None:
        below, rank = _linear(latent.down, moments), part.d_in
        gain = below.weight_var
        if latent.norm is not None:
            norm = _norm(latent.norm, moments)
            gain = (norm.gain_mean**2 + norm.gain_var) / (below.d_in * max(input_square, 1e-30))
            bias_var += rank * weight_var * norm.bias_var
        else:
            bias_var += rank * weight_var * below.bias_var
        weight_var, d_in = rank * weight_var * gain, below.d_in
    if part.beside is not None:
        other = _linear(part.beside, moments, input_square)
        share = other.d_out / (part.d_out or 1)
        weight_var += share * (other.weight_var - weight_var)
        bias_var += share * (other.bias_var - bias_var)
    if part.update is not None:
        update, factor = _linear(part.update[0], moments), part.update[1]
        weight_var += factor**2 * update.weight_var
        bias_var += factor**2 * update.bias_var
    if part.gain is not None:
        gain = moments[part.gain, WHOLE, 0][1]
        weight_var, bias_var = gain * weight_var, gain * bias_var
    return theory.Linear(d_in, part.d_out, weight_var, bias_var)


def _norm(part: NormPart, moments: Moments) -> theory.Norm:
    gain_mean, gain_square = _gain_moments(part, moments)
    return theory.Norm(
        kind=part.kind,
        gain_mean=part.factor * (gain_mean + part.gain_offset),
        gain_var=part.factor**2 * max(gain_square - gain_mean**2, 0.0),
        bias_var=part.factor**2 * moments[part.bias, WHOLE, 0][1] if part.bias else 0.0,
        eps=part.eps,
    )


def _gain_moments(part: NormPart, moments: Moments) -> tuple[float, float]:
    """Return mean and mean square of a norm's weight; of equally many entries for each head."""
    if part.weight is None:
        return 1.0, 1.0
    rows = [moments[name, WHOLE, 0] for name in (part.weight, *part.weights_of_heads)]
    mean, square = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return mean, square


def _optional_norm(part: NormPart | None, moments: Moments) -> theory.Norm | None:
    return _norm(part, moments) if part else None


def _square(parts: BlockParts, moments: Moments) -> float:
    """The mean square of what a block's attention reads, as its norm makes it."""
    if parts.attention_norm is None or parts.placement not in {"pre", "sandwich", "parallel"}:
        return 1.0
    norm = _norm(parts.attention_norm, moments)
    return norm.gain_mean**2 + norm.gain_var + norm.bias_var


def _attention(
    parts: AttentionParts, moments: Moments, biases: Biases, input_square: float = 1.0
) -> theory.Attention:
    return theory.Attention(
        query=_linear(parts.query, moments, input_square),
        key=_linear(parts.key, moments, input_square),
        value=_linear(parts.value, moments, input_square),
        output=_linear(parts.output, moments),
        n_heads=parts.n_heads,
        n_kv_heads=parts.n_kv_heads,
        d_head=parts.d_head,
        causal=parts.causal,
        score_scale=parts.score_scale,
        rotary=parts.rotary,
        p_drop=parts.p_drop,
        query_norm=_optional_norm(parts.query_norm, moments),
        key_norm=_optional_norm(parts.key_norm, moments),
        soft_cap=parts.soft_cap,
        window=parts.window,
        prefix=parts.prefix,
        position_bias=None if parts.position_bias is None else biases[parts.position_bias],
        sink=0.0 if parts.sink is None else _sink(moments[parts.sink, WHOLE, 0]),
    )


def _sink(logits: tuple[float, float]) -> float:
    """The mean of e^b over heads, b taken as normal."""
    mean, square = logits
    return math.exp(min(mean + max(square - mean**2, 0.0) / 2, 50.0))


def _feed_forward(parts: FeedForwardParts, moments: Moments) -> theory.FeedForward:
    return theory.FeedForward(
        up=_linear(parts.up, moments),
        down=_linear(parts.down, moments),
        activation=parts.activation,
        gate=_linear(parts.gate, moments) if parts.gate else None,
        p_drop=parts.p_drop,
        up_offset=parts.up_offset,
        experts=_experts(parts.experts, moments) if parts.experts else None,
    )


def _experts(parts: ExpertParts, moments: Moments) -> theory.Experts:
    return theory.Experts(
        router=_linear(parts.router, moments),
        top_k=parts.top_k,
        gate=parts.gate,
        normalised=parts.normalised,
        scale=parts.scale,
        groups=parts.groups,
        top_groups=parts.top_groups,
        shared=_feed_forward(parts.shared, moments) if parts.shared else None,
        shared_gate=_linear(parts.shared_gate, moments) if parts.shared_gate else None,
    )
