"""One block, forward and backward, on kernels."""

from __future__ import annotations

from dataclasses import dataclass

from dslm.kernels.alignment import ISOTROPIC, Alignment, alignment_below, attention_excess
from dslm.kernels.attention import attention, attention_backward
from dslm.kernels.feed_forward import feed_forward, feed_forward_backward, radial_excess
from dslm.kernels.grid import add, affine, bounded, dropout, multiply
from dslm.kernels.norm import centre, norm, norm_backward
from dslm.kernels.softmax import AttentionWeights, attention_weights
from dslm.spec import Attention, Block, FeedForward, Kernel, Norm, Residual


@dataclass(frozen=True, slots=True)
class Place:
    """Where a branch hangs on the stream: its norm, before it or after the sum, and residual."""

    placement: str
    norm: Norm
    residual: Residual
    d_model: int

    @property
    def before(self) -> bool:
        """Whether the norm is on the branch's input (Pre-LN) rather than on the sum (Post-LN)."""
        return self.placement == "pre"


@dataclass(frozen=True, slots=True)
class SubLayer:
    """A branch in its place, with the kernels of its forward pass.

    Attributes:
        x: the stream before it.
        inner: the branch's input: the normed stream (Pre-LN) or the stream (Post-LN).
        branch: the branch's output, after residual dropout.
        norm_input: what the norm normalises, centred: the stream (Pre-LN) or the sum (Post-LN).
        y: the stream after it: the sum (Pre-LN) or the normed sum (Post-LN).
        weights: attention weights, None for a feed-forward branch.
    """

    layer: Attention | FeedForward
    place: Place
    x: Kernel
    inner: Kernel
    branch: Kernel
    norm_input: Kernel
    y: Kernel
    weights: AttentionWeights | None


def block_forward(x: Kernel, block: Block, d_model: int) -> tuple[SubLayer, SubLayer]:
    """Return the attention and the feed-forward sub-layer of `block` on the stream `x`."""
    place = Place(block.placement, block.attention_norm, block.attention_residual, d_model)
    first = _sub_layer(x, block.attention, place)
    place = Place(block.placement, block.feed_forward_norm, block.feed_forward_residual, d_model)
    return first, _sub_layer(first.y, block.feed_forward, place)


def _sub_layer(x: Kernel, layer: Attention | FeedForward, place: Place) -> SubLayer:
    residual = place.residual
    before = centre(x, place.norm, place.d_model)
    inner = norm(before, place.norm) if place.before else x
    weights = attention_weights(inner, layer) if isinstance(layer, Attention) else None
    branch = dropout(_branch(inner, layer, weights), residual.p_drop)
    if place.before:
        y = add(x, branch, residual.lam**2, residual.beta**2)
        return SubLayer(layer, place, x, inner, branch, before, y, weights)
    centred = centre(branch, place.norm, place.d_model)
    summed = add(x, centred, residual.lam**2, residual.beta**2)
    return SubLayer(layer, place, x, inner, branch, summed, norm(summed, place.norm), weights)


def _branch(x: Kernel, layer: Attention | FeedForward, weights: AttentionWeights | None) -> Kernel:
    if isinstance(layer, FeedForward):
        return feed_forward(x, layer)
    return attention(x, weights or attention_weights(x, layer), layer)


def sub_layer_backward(
    g: Kernel, sub: SubLayer, alignment: Alignment = ISOTROPIC
) -> tuple[Kernel, Alignment]:
    r"""Gradient kernel below a sub-layer, and what the branch left along the stream's vectors.

    Pre-LN: :math:`G + \beta^2 \mathcal N^*(\mathcal B^*(G))`; Post-LN:
    :math:`(\lambda^2 + \beta^2 \mathcal B^*)(\mathcal N^*(G))`, with :math:`\mathcal N^*` the
    norm's and :math:`\mathcal B^*` the branch's backward map. `alignment` says how isotropic `g`
    is; it matters only where a norm acts on the stream itself.
    """
    place, residual = sub.place, sub.place.residual
    if place.before:
        h = _branch_backward(g, sub)
        through = norm_backward(h, sub.norm_input, place.norm, place.d_model, random_length=True)
        return bounded(add(g, through, residual.lam**2, residual.beta**2)), ISOTROPIC
    inner = norm_backward(g, sub.norm_input, place.norm, place.d_model, alignment=alignment)
    through = _branch_backward(inner, sub)
    below = bounded(add(inner, through, residual.lam**2, residual.beta**2))
    excess = affine(_excess(inner, through, sub), residual.beta**2)
    return below, alignment_below(below, affine(through, residual.beta**2), excess, sub.x)


def _branch_backward(g: Kernel, sub: SubLayer) -> Kernel:
    entering = dropout(g, sub.place.residual.p_drop)
    if isinstance(sub.layer, FeedForward):
        return feed_forward_backward(entering, sub.inner, sub.layer)
    weights = sub.weights or attention_weights(sub.inner, sub.layer)
    return attention_backward(entering, sub.inner, weights, sub.layer)


def _excess(g: Kernel, through: Kernel, sub: SubLayer) -> Kernel:
    if isinstance(sub.layer, FeedForward):
        excess = dropout(radial_excess(sub.inner, sub.layer), sub.place.residual.p_drop)
        return multiply(excess, g)
    return attention_excess(g, sub.x, sub.branch, through, sub.layer)
