"""DeepScaleLM: weights and residual scales that keep both directions at unit variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from dslm.balance import amplitudes
from dslm.branch_share import BranchShare, Count
from dslm.errors import SpecError
from dslm.fitting import Fit, fit_stacks
from dslm.spec import Attention, Block, FeedForward, ModelSpec, Stack
from dslm.unit_branches import (
    Amplitudes,
    attentions,
    residuals,
    with_attentions,
    with_residuals,
    with_var,
)
from dslm.validation import validate

Form = Literal["paper", "simplified", "per-layer", "kernel", "balanced"]
DEFAULT_FORM: Form = "kernel"


@dataclass(frozen=True, slots=True)
class AttentionScaling:
    """Standard deviations of one attention layer's weight matrices."""

    query: float
    key: float
    value: float
    output: float


@dataclass(frozen=True, slots=True)
class BlockScaling:
    """Standard deviations of one block's weight matrices; `gate` is None without a gate.

    Attributes:
        cross: those of its cross-attention, or None.
        residuals: its residual steps, first to last.
    """

    query: float
    key: float
    value: float
    output: float
    up: float
    down: float
    gate: float | None = None
    cross: AttentionScaling | None = None
    residuals: tuple[Amplitudes, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Scaling:
    r"""What DeepScaleLM sets.

    Attributes:
        lam, beta: residual amplitudes, x ← lam·x + beta·f(x), with lam² + beta² = 1 (parallel
            branches: lam² + 2 beta² = 1). Where the amplitudes differ between blocks, as in the
            ``"balanced"`` form, these are those of even shares.
        embedding: standard deviation of each embedding table's entries.
        blocks: standard deviations and residual steps, block by block.
        head: standard deviation of an untied LM head's entries.
        tied_head_input: factor on the input of a head that shares the embedding's weights.
    """

    lam: float
    beta: float
    embedding: float
    blocks: tuple[BlockScaling, ...]
    head: float
    tied_head_input: float


def deepscale(
    spec: Stack | ModelSpec,
    *,
    form: Form = DEFAULT_FORM,
    k: float = 2.0,
    alpha: float = 1.0,
    count: Count = "sublayers",
    n_embedding_tables: int = 1,
    p_embedding_drop: float = 0.0,
) -> Scaling:
    r"""Return DeepScaleLM's scales for a stack and the kernel of its input.

    Scores get unit variance. Values and outputs share one standard deviation, up and down
    another, such that each branch has unit variance after its dropout:

    .. math:: \sigma_v^2 \sigma_o^2 d^2 (r_l + (1 - r_l)/L)/(1-p) = 1, \quad
        \sigma_1^2 \sigma_2^2 d\, d_{ff}\, E[\phi^2]/((1-p) E[u^2]) = 1

    The second is solved for :math:`\sigma_1 = \sigma_2` and any activation; ReLU's closed form
    is :math:`d\,d_{ff}\sigma_1^2\sigma_2^2 = 2(1-p)`. In a gated branch, which multiplies two
    signals, gate and up get unit variance and `down` follows. `form` says how the first condition
    is met:

    - ``"paper"``: the authors' closed forms, constants and all (`dslm.paper_form`).
    - ``"simplified"``: one r for all layers, the input's; one lambda for all branches.
    - ``"per-layer"``: r by the scalar recursion
      :math:`r \leftarrow \lambda^2 r + \beta^2 r_{branch}`.
    - ``"kernel"``: on the position-resolved kernel, layer after layer, so that it holds under a
      causal mask.
    - ``"balanced"``: as ``"kernel"``, with each branch's share of its block solved such that one
      branch gives the gradient what the other takes from it (`dslm.balance`).

    A norm on the branch's output (sandwich, branch norm) gives it variance 1 whatever
    :math:`\sigma`. Only beta then counts, backward as well: the norm divides the gradient by the
    raw branch's scale, and the weights multiply it by that scale again. There :math:`\sigma` is set
    for a raw branch of unit variance, so that the norm's eps is negligible and the weights'
    gradients have the size that they have with other placements.

    Args:
        spec: a stack, or a spec of one stack. Neither its weight moments nor its input kernel's
            scale are used: embeddings are assumed to be drawn with `Scaling.embedding`.
        form: one of the forms above.
        k, alpha, count: the branches' share, :math:`\beta^2 = k/N^\alpha` (`BranchShare`). N counts
            sub-layers unless told otherwise.
        n_embedding_tables: number of tables summed into the stream.
        p_embedding_drop: dropout probability on their sum.

    Raises:
        SpecError: if a block is None, the spec has more than one stack or none, or `form` is none
            of the above.

    Source: arXiv 2403.09635, §4, with kernels, general activations, other placements and the
    balanced form derived here.
    """
    model = spec if isinstance(spec, ModelSpec) else ModelSpec("custom", {"decoder": spec})
    if len(model.stacks) != 1:
        fix = f"give a model of one stack; this one has {len(model.stacks)}: deepscale_stacks"
        raise SpecError("stacks", fix)
    scalings = deepscale_stacks(model, form=form, k=k, alpha=alpha, count=count)
    (scaling,) = scalings.values()
    # the sum of the tables has unit variance after its dropout
    embedding = math.sqrt((1 - p_embedding_drop) / n_embedding_tables)
    return replace(scaling, embedding=embedding, tied_head_input=scaling.head / embedding)


def deepscale_stacks(
    spec: ModelSpec,
    *,
    form: Form = DEFAULT_FORM,
    k: float = 2.0,
    alpha: float = 1.0,
    count: Count = "sublayers",
) -> Mapping[str, Scaling]:
    """Return DeepScaleLM's scales for every stack of a model, as `deepscale` does for one.

    N is the number of blocks in each stack. Cross-attention is fitted on the output of the stack
    that it reads. Embeddings are taken as one table without dropout.

    Args:
        spec: the model.
        form, k, alpha, count: as in `deepscale`.

    Raises:
        SpecError: if a block is None, or an argument is none of `deepscale`'s.
    """
    validate(spec)
    share = BranchShare(k, alpha, count)
    if form not in get_args(Form):
        raise SpecError("form", f"use one of {', '.join(get_args(Form))}")
    for name, stack in spec.stacks.items():
        _require_whole(stack, f"stacks.{name}." if len(spec.stacks) > 1 else "")
    even = {name: _even(stack, share) for name, stack in spec.stacks.items()}
    fits = fit_stacks(spec, even, form)
    return {name: _scaling(stack, fits[name], share) for name, stack in spec.stacks.items()}


def apply_scaling(stack: Stack, scaling: Scaling) -> Stack:
    """Return `stack` with the weight moments and residual steps of `scaling`, blocks in order.

    Biases become 0, gains 1. The input kernel stays as it is.
    """
    pairs = zip(stack.blocks, scaling.blocks, strict=True)
    blocks = [_apply_block(block, stds) for block, stds in pairs if block is not None]
    return replace(stack, blocks=tuple(blocks))


def _require_whole(stack: Stack, path: str) -> None:
    if not stack.blocks:
        raise SpecError(f"{path}blocks", "give at least one block")
    for index, block in enumerate(stack.blocks):
        if block is None:
            fix = "it is not understood; only whole stacks scale"
            raise SpecError(f"{path}blocks[{index}]", fix)
        if block.feed_forward.experts is not None:
            fix = "it routes tokens to experts, for which DeepScaleLM gives no scales"
            raise SpecError(f"{path}blocks[{index}].feed_forward.experts", fix)


def _even(stack: Stack, share: BranchShare) -> list[tuple[Amplitudes, ...]]:
    """The steps of every block where its branches have even shares."""
    n_blocks = len(stack.blocks)
    return [_even_steps(block, n_blocks, share) for block in stack.blocks if block is not None]


def _even_steps(block: Block, n_blocks: int, share: BranchShare) -> tuple[Amplitudes, ...]:
    n, parallel = len(residuals(block)), block.placement == "parallel"
    _, beta = share.amplitudes(n_blocks, n, parallel=parallel)
    return amplitudes([beta**2] * n, parallel=parallel)


def _scaling(stack: Stack, fit: Fit, share: BranchShare) -> Scaling:
    first = next(block for block in stack.blocks if block is not None)
    parallel = first.placement == "parallel"
    lam, beta = share.amplitudes(len(stack.blocks), len(residuals(first)), parallel=parallel)
    head = 1 / math.sqrt(stack.d_model)
    return Scaling(lam, beta, 1.0, tuple(map(_deviations, fit.blocks)), head, head)


def _attention_deviations(layer: Attention) -> AttentionScaling:
    maps = (layer.query, layer.key, layer.value, layer.output)
    return AttentionScaling(*(math.sqrt(linear.weight_var) for linear in maps))


def _deviations(block: Block) -> BlockScaling:
    attention, cross = _attention_deviations(block.attention), block.cross
    feed_forward = block.feed_forward
    return BlockScaling(
        query=attention.query,
        key=attention.key,
        value=attention.value,
        output=attention.output,
        up=math.sqrt(feed_forward.up.weight_var),
        down=math.sqrt(feed_forward.down.weight_var),
        gate=None if feed_forward.gate is None else math.sqrt(feed_forward.gate.weight_var),
        cross=None if cross is None else _attention_deviations(cross.attention),
        residuals=tuple(Amplitudes(step.lam, step.beta) for step in residuals(block)),
    )


def _apply_block(block: Block, stds: BlockScaling) -> Block:
    plain = with_residuals(block, stds.residuals)
    layers = attentions(plain)
    scaled = [_apply_attention(layers[0], stds)]
    if stds.cross is not None:
        scaled.append(_apply_attention(layers[1], stds.cross))
    feed_forward = _apply_feed_forward(plain.feed_forward, stds)
    return replace(with_attentions(plain, scaled), feed_forward=feed_forward)


def _apply_attention(layer: Attention, stds: AttentionScaling | BlockScaling) -> Attention:
    return replace(
        layer,
        query=with_var(layer.query, stds.query**2),
        key=with_var(layer.key, stds.key**2),
        value=with_var(layer.value, stds.value**2),
        output=with_var(layer.output, stds.output**2),
    )


def _apply_feed_forward(layer: FeedForward, stds: BlockScaling) -> FeedForward:
    gate = layer.gate if stds.gate is None else layer.gate and with_var(layer.gate, stds.gate**2)
    up, down = with_var(layer.up, stds.up**2), with_var(layer.down, stds.down**2)
    return replace(layer, up=up, down=down, gate=gate)
