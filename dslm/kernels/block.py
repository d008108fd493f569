"""One block, forward and backward, on kernels."""

from __future__ import annotations

from dataclasses import dataclass

from dslm.kernels.alignment import ISOTROPIC, Alignment, alignment_below, attention_excess
from dslm.kernels.attention import attention, attention_backward
from dslm.kernels.feed_forward import feed_forward, feed_forward_backward, radial_excess
from dslm.kernels.grid import add, affine, bounded, dropout, multiply
from dslm.kernels.lengths import post_ln_lengths, random_lengths
from dslm.kernels.norm import centre, norm, norm_backward
from dslm.kernels.placement import BranchPlacement, branch_placements, cross_placement
from dslm.kernels.softmax import Heads, attention_weights
from dslm.spec import Attention, Block, FeedForward, Kernel, Norm


@dataclass(frozen=True, slots=True)
class SubLayer:
    """A branch with its norms and residual, and the kernels of its forward pass.

    Attributes:
        layer: the attention or feed-forward layer.
        placement: the norms around it and its residual step.
        x: the stream before it.
        source: the input of its input norm, centred; the stream where there is no norm.
        inner: the branch's input, after that norm.
        raw: the branch's output, centred where a norm follows.
        branch: `raw` after its norm and residual dropout.
        summed: the residual sum, centred where a norm follows.
        y: the stream after the sub-layer.
        weights: attention weights, None for a feed-forward branch.
        memory: what cross-attention reads; None for a branch that reads only the stream.
    """

    layer: Attention | FeedForward
    placement: BranchPlacement
    x: Kernel
    source: Kernel
    inner: Kernel
    raw: Kernel
    branch: Kernel
    summed: Kernel
    y: Kernel
    weights: Heads | None
    memory: Kernel | None


Layer = tuple[SubLayer, ...]  # self-attention, cross-attention in some, feed-forward


def block_forward(
    x: Kernel,
    block: Block,
    d_model: int,
    memory: Kernel | None = None,
    weights: Heads | None = None,
) -> Layer:
    """Return the sub-layers of `block` on the stream `x`, cross-attention reading `memory`.

    `weights` spares the self-attention's computation. They depend on x, queries and keys alone, so
    a caller that fits values and outputs passes them again.
    """
    first, last = branch_placements(block, d_model)
    layers = [_sub_layer(x, x, block.attention, first, weights=weights)]
    if block.cross is not None:
        placement = cross_placement(block, block.cross, d_model)
        y = layers[0].y
        layers.append(_sub_layer(y, y, block.cross.attention, placement, memory))
    y = layers[-1].y
    read = x if last.parallel else y
    return *layers, _sub_layer(y, read, block.feed_forward, last)


def _sub_layer(
    x: Kernel,
    read: Kernel,
    layer: Attention | FeedForward,
    placement: BranchPlacement,
    memory: Kernel | None = None,
    *,
    weights: Heads | None = None,
) -> SubLayer:
    residual = placement.residual
    source = centre(read, placement.on_input, placement.d_model)
    inner = norm(source, placement.on_input)
    attended = memory or inner
    if isinstance(layer, Attention):
        weights = weights or attention_weights(inner, attended, layer)
        raw = attention(attended, weights, layer)
    else:
        raw = feed_forward(inner, layer)
    raw = centre(raw, placement.on_branch, placement.d_model)
    branch = dropout(norm(raw, placement.on_branch), residual.p_drop)
    centred = centre(branch, placement.on_sum, placement.d_model)
    summed = add(x, centred, residual.lam**2, residual.beta**2)
    y = norm(summed, placement.on_sum)
    return SubLayer(layer, placement, x, source, inner, raw, branch, summed, y, weights, memory)


@dataclass(frozen=True, slots=True)
class BlockGradient:
    """Gradient kernels of one block.

    Attributes:
        stream: below the block, between its branches, above it; one more than sub-layers.
        alignment: that of the lowest.
        memory: at the memory that its cross-attention reads, or None.
    """

    stream: tuple[Kernel, ...]
    alignment: Alignment
    memory: Kernel | None


def block_backward(g: Kernel, layer: Layer, alignment: Alignment) -> BlockGradient:
    r"""Return the gradient kernels of a block below the gradient `g`.

    Parallel branches both receive G. As their weights are independent, the gradient below is

    .. math:: \lambda^2 G + \beta_a^2 \mathcal B_a^*(G) + \beta_f^2 \mathcal B_f^*(G)
    """
    if layer[-1].placement.parallel:
        return _parallel_backward(g, layer, alignment)
    stream, memory = [g], None
    for sub in reversed(layer):
        below, aligned, at_memory = _sub_layer_backward(stream[0], sub, alignment)
        memory = at_memory or memory
        stream, alignment = [below, *stream], aligned
    return BlockGradient(tuple(stream), alignment, memory)


def _parallel_backward(g: Kernel, layer: Layer, alignment: Alignment) -> BlockGradient:
    first, last = layer
    between = _sub_layer_backward(g, last, alignment)[0]
    residual = first.placement.residual
    straight = add(g, _through(g, first)[0], residual.lam**2, residual.beta**2)
    below = bounded(add(straight, add(between, g, 1.0, -1.0)))
    return BlockGradient((below, between, g), ISOTROPIC, None)


def _sub_layer_backward(
    g: Kernel, sub: SubLayer, alignment: Alignment
) -> tuple[Kernel, Alignment, Kernel | None]:
    r"""Return the gradient kernel below a sub-layer, its alignment, and the one at the memory.

    .. math:: (\lambda^2 + \beta^2 \mathcal N_i^* \mathcal B^* \mathcal N_b^*)(\mathcal N_s^*(G))

    with :math:`\mathcal B^*` the branch's backward map and :math:`\mathcal N_i^*, \mathcal N_b^*,
    \mathcal N_s^*` those of the norms on its input, its output and the sum, where there are any.
    `alignment` is that of `g`; it matters only where a norm acts on the stream itself (Post-LN).
    """
    placement, residual = sub.placement, sub.placement.residual
    lengths = None if placement.on_sum is None else _lengths_of_sum(sub)
    inner = norm_backward(
        g, sub.summed, placement.on_sum, placement.d_model, alignment=alignment, lengths=lengths
    )
    through, memory = _through(inner, sub)
    if memory is not None:
        memory = affine(memory, residual.beta**2)
    below = bounded(add(inner, through, residual.lam**2, residual.beta**2))
    if placement.on_sum is None:
        return below, ISOTROPIC, memory
    excess = affine(_excess(inner, through, sub), residual.beta**2)
    aligned = alignment_below(below, affine(through, residual.beta**2), excess, sub.x)
    return below, aligned, memory


def _through(g: Kernel, sub: SubLayer) -> tuple[Kernel, Kernel | None]:
    """Return the gradient kernels through the branch, without beta: (at the stream, the memory)."""
    placement = sub.placement
    h = dropout(g, placement.residual.p_drop)
    h = _below_norm(h, sub.raw, placement.on_branch, placement.d_model)
    h, memory = _branch_backward(h, sub)
    return _below_norm(h, sub.source, placement.on_input, placement.d_model), memory


def _below_norm(g: Kernel, x: Kernel, layer: Norm | None, d_model: int) -> Kernel:
    if layer is None:
        return g
    return norm_backward(g, x, layer, d_model, lengths=random_lengths(x, d_model))


def _lengths_of_sum(sub: SubLayer) -> Kernel:
    layer, placement = sub.layer, sub.placement
    inner = layer.value.d_out if isinstance(layer, Attention) else layer.up.d_out
    return post_ln_lengths(
        sub.x,
        sub.branch,
        sub.summed,
        residual=placement.residual,
        inner=inner,
        d_model=placement.d_model,
    )


def _branch_backward(g: Kernel, sub: SubLayer) -> tuple[Kernel, Kernel | None]:
    if isinstance(sub.layer, FeedForward):
        return feed_forward_backward(g, sub.inner, sub.layer), None
    attended = sub.memory or sub.inner
    weights = sub.weights or attention_weights(sub.inner, attended, sub.layer)
    at_queries, at_memory = attention_backward(g, sub.inner, attended, weights, sub.layer)
    if sub.memory is not None:
        return at_queries, at_memory
    return add(at_queries, at_memory), None


def _excess(g: Kernel, through: Kernel, sub: SubLayer) -> Kernel:
    if sub.memory is not None:  # only its queries depend on the stream, so Jx counts as 0
        return multiply(sub.branch, g)
    if isinstance(sub.layer, FeedForward):
        excess = dropout(radial_excess(sub.inner, sub.layer), sub.placement.residual.p_drop)
        return multiply(excess, g)
    return attention_excess(g, sub.x, sub.branch, through, sub.layer)
