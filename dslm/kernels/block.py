"""One block, forward and backward, on kernels."""

from __future__ import annotations

from dataclasses import dataclass

from dslm.kernels.alignment import ISOTROPIC, Alignment, alignment_below, attention_excess
from dslm.kernels.attention import attention, attention_backward
from dslm.kernels.feed_forward import feed_forward, feed_forward_backward, radial_excess
from dslm.kernels.grid import add, affine, bounded, dropout, multiply
from dslm.kernels.norm import centre, norm, norm_backward
from dslm.kernels.place import Place, places
from dslm.kernels.softmax import AttentionWeights, attention_weights
from dslm.spec import Attention, Block, FeedForward, Kernel


@dataclass(frozen=True, slots=True)
class SubLayer:
    """A branch in its place, with the kernels of its forward pass.

    Attributes:
        x: the stream before it.
        source: what its input norm normalises, centred: the stream the branch reads.
        inner: the branch's input: `source` after the norm, or the stream where there is none.
        raw: the branch's output, centred where a norm follows.
        branch: that after its norm and residual dropout.
        summed: the residual sum, centred where a norm follows.
        y: the stream after the sub-layer.
        weights: attention weights, None for a feed-forward branch.
    """

    layer: Attention | FeedForward
    place: Place
    x: Kernel
    source: Kernel
    inner: Kernel
    raw: Kernel
    branch: Kernel
    summed: Kernel
    y: Kernel
    weights: AttentionWeights | None


def block_forward(x: Kernel, block: Block, d_model: int) -> tuple[SubLayer, SubLayer]:
    """Return the attention and the feed-forward sub-layer of `block` on the stream `x`."""
    first_place, second_place = places(block, d_model)
    first = _sub_layer(x, x, block.attention, first_place)
    read = x if second_place.parallel else first.y
    return first, _sub_layer(first.y, read, block.feed_forward, second_place)


def _sub_layer(x: Kernel, read: Kernel, layer: Attention | FeedForward, place: Place) -> SubLayer:
    residual = place.residual
    source = centre(read, place.on_input, place.d_model)
    inner = norm(source, place.on_input)
    weights = attention_weights(inner, layer) if isinstance(layer, Attention) else None
    raw = centre(_branch(inner, layer, weights), place.on_branch, place.d_model)
    branch = dropout(norm(raw, place.on_branch), residual.p_drop)
    centred = centre(branch, place.on_sum, place.d_model)
    summed = add(x, centred, residual.lam**2, residual.beta**2)
    y = norm(summed, place.on_sum)
    return SubLayer(layer, place, x, source, inner, raw, branch, summed, y, weights)


def _branch(x: Kernel, layer: Attention | FeedForward, weights: AttentionWeights | None) -> Kernel:
    if isinstance(layer, FeedForward):
        return feed_forward(x, layer)
    return attention(x, weights or attention_weights(x, layer), layer)


def block_backward(
    g: Kernel, layer: tuple[SubLayer, SubLayer], alignment: Alignment
) -> tuple[Kernel, Kernel, Alignment]:
    r"""Gradient kernels between the block's branches and below it, and the latter's alignment.

    Parallel branches both receive :math:`G`: below them lies :math:`\lambda^2 G + \beta_a^2
    \mathcal B_a^*(G) + \beta_f^2 \mathcal B_f^*(G)`, as their weights are independent.
    """
    attention_layer, feed_forward_layer = layer
    between, aligned = _sub_layer_backward(g, feed_forward_layer, alignment)
    if not feed_forward_layer.place.parallel:
        return between, *_sub_layer_backward(between, attention_layer, aligned)
    residual = attention_layer.place.residual
    through = add(between, g, 1.0, -1.0)
    straight = add(g, _through(g, attention_layer), residual.lam**2, residual.beta**2)
    return between, bounded(add(straight, through)), ISOTROPIC


def _sub_layer_backward(g: Kernel, sub: SubLayer, alignment: Alignment) -> tuple[Kernel, Alignment]:
    r"""Gradient kernel below a sub-layer, and what the branch left along the stream's vectors.

    :math:`(\lambda^2 + \beta^2 \mathcal N_i^* \mathcal B^* \mathcal N_b^*)(\mathcal N_s^*(G))`,
    with :math:`\mathcal B^*` the branch's backward map and :math:`\mathcal N_i^*, \mathcal N_b^*,
    \mathcal N_s^*` those of the norms on its input, its output and the sum, where there are any.
    `alignment` says how isotropic `g` is; it matters only where a norm acts on the stream itself.
    """
    place, residual = sub.place, sub.place.residual
    inner = norm_backward(g, sub.summed, place.on_sum, place.d_model, alignment=alignment)
    through = _through(inner, sub)
    below = bounded(add(inner, through, residual.lam**2, residual.beta**2))
    if place.on_sum is None:
        return below, ISOTROPIC
    excess = affine(_excess(inner, through, sub), residual.beta**2)
    return below, alignment_below(below, affine(through, residual.beta**2), excess, sub.x)


def _through(g: Kernel, sub: SubLayer) -> Kernel:
    """Return the gradient kernel at the stream that came through the branch, `beta` left out."""
    place = sub.place
    h = dropout(g, place.residual.p_drop)
    h = norm_backward(h, sub.raw, place.on_branch, place.d_model, random_length=True)
    h = _branch_backward(h, sub)
    return norm_backward(h, sub.source, place.on_input, place.d_model, random_length=True)


def _branch_backward(g: Kernel, sub: SubLayer) -> Kernel:
    if isinstance(sub.layer, FeedForward):
        return feed_forward_backward(g, sub.inner, sub.layer)
    weights = sub.weights or attention_weights(sub.inner, sub.layer)
    return attention_backward(g, sub.inner, weights, sub.layer)


def _excess(g: Kernel, through: Kernel, sub: SubLayer) -> Kernel:
    if isinstance(sub.layer, FeedForward):
        excess = dropout(radial_excess(sub.inner, sub.layer), sub.place.residual.p_drop)
        return multiply(excess, g)
    return attention_excess(g, sub.x, sub.branch, through, sub.layer)
