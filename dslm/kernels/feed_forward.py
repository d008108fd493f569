"""The feed-forward branch on kernels."""

from __future__ import annotations

from dslm.duals import dual_of
from dslm.kernels.grid import add, dropout, map_pairs, multiply
from dslm.kernels.linear import linear, linear_backward
from dslm.spec import FeedForward, Kernel


def feed_forward(x: Kernel, layer: FeedForward) -> Kernel:
    r"""Return the kernel of down(dropout(φ(up(x)))) or of down(dropout(φ(gate(x)) * up(x))).

    .. math:: K \to d_{ff} E[w_2^2]\; \hat K_\phi + E[b_2^2], \quad
        \hat K_{\phi,ij} = E[\phi(u_i) \phi(u_j)]

    With a gate, :math:`\hat K_\phi` is the product of the gate's E[φφ] and the kernel of `up`, as
    the two are independent.

    Source: arXiv 2403.09635, §3 (FFN), with dual activations derived here.
    """
    return linear(dropout(_hidden(x, layer), layer.p_drop), layer.down)


def feed_forward_backward(g: Kernel, x: Kernel, layer: FeedForward) -> Kernel:
    r"""Return the gradient kernel below the branch whose input kernel is `x`.

    .. math:: G \to d_{ff} E[w_1^2]\; E[\phi'\phi'] \; d\,E[w_2^2]\, G

    With a gate it is the sum of the gradients through gate and `up`.

    Source: as `feed_forward`; forward and backward signals taken as independent.
    """
    hidden = dropout(linear_backward(g, layer.down), layer.p_drop)
    if layer.gate is None:
        return linear_backward(multiply(hidden, _slopes(x, layer)), layer.up)
    up, act = linear(x, layer.up), map_pairs(linear(x, layer.gate), dual_of(layer.activation).value)
    through_gate = multiply(hidden, multiply(_slopes(x, layer), up))
    through_up = multiply(hidden, act)
    return add(linear_backward(through_gate, layer.gate), linear_backward(through_up, layer.up))


def radial_excess(x: Kernel, layer: FeedForward) -> Kernel:
    r"""Return the kernel of :math:`J x - f(x)`: 0 where the branch f is homogeneous of degree one.

    It is that of :math:`W_2(u\phi' - \phi - b_1 \phi') - b_2`. With a gate
    :math:`W_2\,\phi(gate)\,up` is taken instead: exact for ReLU, close for SiLU and GELU. Only the
    1/d term of a norm's Jacobian depends on it.

    Source: derived here.
    """
    if layer.gate is not None:
        return linear(dropout(_hidden(x, layer), layer.p_drop), layer.down)
    curved = map_pairs(linear(x, layer.up), dual_of(layer.activation).curvature)
    excess = add(curved, _slopes(x, layer), 1.0, layer.up.bias_var)
    return linear(dropout(excess, layer.p_drop), layer.down)


def _hidden(x: Kernel, layer: FeedForward) -> Kernel:
    dual = dual_of(layer.activation)
    if layer.gate is None:
        return map_pairs(linear(x, layer.up), dual.value)
    return multiply(map_pairs(linear(x, layer.gate), dual.value), linear(x, layer.up))


def _slopes(x: Kernel, layer: FeedForward) -> Kernel:
    before = linear(x, layer.up if layer.gate is None else layer.gate)
    return map_pairs(before, dual_of(layer.activation).slope)
