"""What today's weights make of the directions that a batch's tokens have: a curve of its own.

`dslm.predict` knows second moments of the weights, which say what they do to random directions.
Here the weights themselves act on the stream's mean vectors and covariance. Only block 0's input
is measured; what the model does above it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dslm import directions
from dslm.directions import Dense, Gain, Mixture, Projections
from dslm.spec import Floats, Missing, Residual
from trainer_agent.capture.token_axis import assumed, batch_first
from trainer_agent.description import Architecture, StackParts, architecture
from trainer_agent.description.read.head_trace import padding_of
from trainer_agent.description.read.parts import AttentionParts, BlockParts, LinearPart, NormPart
from trainer_agent.description.trace.replay import call_arguments, stream_of, undisturbed
from trainer_agent.model.unwrap import unwrap

GROUPS = 64


@dataclass(frozen=True, slots=True)
class Course:
    """A stack's stream over depth: variance and token correlation, float64[N+1] each."""

    variance: Floats
    correlation: Floats


@dataclass(frozen=True, slots=True)
class MeanField:
    """Each stack's course, and the stacks that are outside it, with the reason."""

    stacks: Mapping[str, Course]
    missing: tuple[Missing, ...] = ()


def mean_field(
    model: nn.Module, batch: Tensor | Mapping[str, Any], *, groups: int = GROUPS
) -> MeanField:
    """Variance and correlation over depth from the weights and block 0's input on `batch`.

    Tokens are grouped by their id, the `groups` most frequent ones apart and all others together.
    Covers Pre-LN and Post-LN blocks with plain attention and an ungated feed-forward layer, on
    sequences of at least two tokens; the rest is named in `missing`. Costs about as much as a
    forward pass on a few d_ff tokens, on the host in float64, and leaves the model as it was.
    Raises ValueError for fewer than one group, and as `describe` does for a batch.
    """
    if groups < 1:
        raise ValueError(f"groups is {groups}: give at least 1")
    model = unwrap(model)
    args, kwargs = call_arguments(batch)
    layout = architecture(model, args, kwargs)
    inputs = _inputs(model, layout, args, kwargs)
    courses: dict[str, Course] = {}
    missing = list(layout.missing)
    for stack in layout.stacks:
        x, _ = batch_first(inputs[stack.name], None, assumed(stack.token_axis))
        ids = _ids(args, kwargs)
        reason = _outside(stack, x)
        if reason is None:
            start = _mixture(x, ids, _mask(kwargs, x), groups)
            courses[stack.name] = _course(model, stack, start, x.shape[1])
        else:
            missing.append(reason)
    return MeanField(courses, tuple(missing))


def _inputs(
    model: nn.Module, layout: Architecture, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What enters each stack in the model's own mode, dropout included."""
    inputs: dict[str, Tensor] = {}
    handles = []
    for stack in layout.stacks:

        def enter(_: nn.Module, a: Any, k: Any, name: str = stack.name) -> None:
            x = stream_of(a, k)
            if x is not None:
                inputs[name] = x.detach()

        first = model.get_submodule(stack.ends(0)[0].module)
        handles.append(first.register_forward_pre_hook(enter, with_kwargs=True))
    try:
        with undisturbed(model), torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _ids(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    values = (kwargs.get("input_ids"), *args)
    return next((v for v in values if isinstance(v, Tensor) and not v.is_floating_point()), None)


def _mask(kwargs: Mapping[str, Any], x: Tensor) -> Tensor:
    mask = padding_of(kwargs)
    fits = mask is not None and mask.shape == x.shape[:2]
    return mask.bool() if fits and mask is not None else torch.ones(x.shape[:2], dtype=torch.bool)


def _outside(stack: StackParts, x: Tensor) -> Missing | None:
    """Why a stack is outside the mean field, None where it is not."""
    for block, parts in zip(stack.blocks, stack.parts, strict=True):
        what = "block not understood" if parts is None else next(_beyond(parts), None)
        if what is not None:
            return Missing(block, what, "the mean field of the stream does not cover it")
    if x.shape[1] < 2:
        return Missing(stack.name, "one token", "there are no pairs of tokens")
    return None


def _beyond(parts: BlockParts) -> Iterator[str]:
    attention = parts.attention
    plain = AttentionParts(
        query=attention.query,
        key=attention.key,
        value=attention.value,
        output=attention.output,
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_heads,
        d_head=attention.d_head,
        causal=attention.causal,
        score_scale=attention.score_scale,
        rotary=None,
        p_drop=attention.p_drop,
        token_axis=attention.token_axis,
    )
    if parts.placement not in ("pre", "post"):
        yield f"{parts.placement} placement"
    if parts.attention_norm is None:
        yield "attention without a norm"
    if attention != plain:
        yield "attention with rotation, groups, windows, caps, biases or norms of its own"
    if parts.feed_forward.experts is not None:
        yield "a mixture of experts"
    if parts.feed_forward.gate is not None:
        yield "gated feed-forward"
    if parts.cross is not None:
        yield "cross-attention"


def _mixture(x: Tensor, ids: Tensor | None, mask: Tensor, groups: int) -> Mixture:
    """The stream's moments over real tokens, grouped by id."""
    real = mask.to(x.device).unsqueeze(-1)
    values = torch.where(real, x.double(), 0.0)
    sums, pairs = values.sum(1), (mask.sum(1) * (mask.sum(1) - 1)).sum()
    tokens = x.double()[mask.to(x.device)]
    square = tokens.T @ tokens
    cross = (sums.T @ sums - square) / max(float(pairs), 1.0)
    flat = torch.zeros(len(tokens), dtype=torch.long)
    if ids is not None and ids.shape == x.shape[:2]:
        flat = ids[mask.to(ids.device)].cpu()
    shares, means = _by_group(tokens.cpu(), flat, groups)
    residual_covariance = (square / len(tokens)).cpu() - (shares[:, None] * means).T @ means
    return Mixture(shares.numpy(), means.numpy(), residual_covariance.numpy(), cross.cpu().numpy())


def _by_group(tokens: Tensor, ids: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    distinct, index, counts = ids.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    order = torch.empty(len(distinct), dtype=torch.long)
    order[counts.argsort(descending=True)] = torch.arange(len(distinct))
    group = order.clamp_max(groups)[index]
    n = int(group.max()) + 1
    sizes = torch.bincount(group, minlength=n).double()
    means = torch.zeros(n, tokens.shape[1], dtype=torch.float64).index_add(0, group, tokens)
    return sizes / sizes.sum(), means / sizes[:, None]


def _course(model: nn.Module, stack: StackParts, x: Mixture, seq_len: int) -> Course:
    """Carry the mixture through the blocks."""
    weights = _Weights(dict(model.named_parameters()))
    course = [x]
    for parts in stack.parts:
        assert parts is not None
        course.append(_block(course[-1], parts, weights, seq_len))
    variance, correlation = ([getattr(m, n) for m in course] for n in ("variance", "correlation"))
    return Course(np.array(variance), np.array(correlation))


def _block(x: Mixture, parts: BlockParts, weights: _Weights, seq_len: int) -> Mixture:
    attention, layer = weights.projections(parts.attention), parts.feed_forward
    assert parts.attention_norm is not None  # `_beyond` refuses such a block
    before = weights.gain(parts.attention_norm, len(x.within))
    reading = directions.normed(x, before) if parts.placement == "pre" else directions.read(x)
    branch = directions.attend(reading, attention, seq_len)
    x = _after(x, branch, parts.attention_residual, before, parts.placement)
    before = weights.gain(parts.feed_forward_norm, len(x.within))
    reading = directions.normed(x, before) if parts.placement == "pre" else directions.read(x)
    up, down = weights.dense(layer.up), weights.dense(layer.down)
    branch = directions.feed_forward(reading, up, down, layer.activation, layer.p_drop)
    return _after(x, branch, parts.feed_forward_residual, before, parts.placement)


def _after(
    x: Mixture, branch: directions.Branch, residual: Residual, norm: Gain, placement: str
) -> Mixture:
    added = directions.dropped(branch, residual.p_drop)
    summed = directions.add(x, added, residual.lam, residual.beta)
    return directions.normed(summed, norm).x if placement == "post" else summed


@dataclass(frozen=True, slots=True)
class _Weights:
    """Today's parameters, as float64 arrays on the host."""

    parameters: Mapping[str, Tensor]

    def dense(self, part: LinearPart) -> Dense:
        weight = self._array(part.weight)
        rows = weight.T if part.input_first else weight
        bias = np.zeros(len(rows)) if part.bias is None else self._array(part.bias)
        return Dense(_taken(rows, part), _taken(bias, part))

    def gain(self, part: NormPart, d_model: int) -> Gain:
        gain = np.ones(d_model) if part.weight is None else self._array(part.weight)
        bias = np.zeros(d_model) if part.bias is None else self._array(part.bias)
        gain, bias = part.factor * (gain + part.gain_offset), part.factor * bias
        return Gain(gain, bias, part.eps, part.kind == "layernorm")

    def projections(self, part: AttentionParts) -> Projections:
        return Projections(
            query=self.dense(part.query),
            key=self.dense(part.key),
            value=self.dense(part.value),
            output=self.dense(part.output),
            n_heads=part.n_heads,
            causal=part.causal,
            score_scale=part.score_scale,
            p_drop=part.p_drop,
        )

    def _array(self, name: str) -> Floats:
        return np.asarray(self.parameters[name].detach().double().cpu().numpy())


def _taken(rows: Floats, part: LinearPart) -> Floats:
    return np.concatenate([rows[start:stop] for start, stop in part.outputs])
