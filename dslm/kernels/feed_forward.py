"""The feed-forward branch on kernels."""

from __future__ import annotations

from dataclasses import replace

from dslm.duals import dual_of
from dslm.kernels.grid import add, affine, dropout, map_pairs, multiply
from dslm.kernels.linear import linear, linear_backward, mean_of_random_features
from dslm.kernels.routing import gate_products, gate_slopes
from dslm.spec import Experts, FeedForward, Kernel


def feed_forward(x: Kernel, layer: FeedForward) -> Kernel:
    r"""Return the kernel of down(dropout(φ(up(x)))) or of down(dropout(φ(gate(x)) * up(x))).

    .. math:: K \to d_{ff} E[w_2^2]\; \hat K_\phi + E[b_2^2], \quad
        \hat K_{\phi,ij} = E[\phi(u_i) \phi(u_j)]

    With a gate, :math:`\hat K_\phi` is the product of the gate's E[φφ] and the kernel of `up`, as
    the two are independent.

    Source: arXiv 2403.09635, §3 (FFN), with dual activations derived here.
    """
    if layer.experts is not None:
        return routed(x, layer, layer.experts)
    return linear(dropout(_hidden(x, layer), layer.p_drop), layer.down)


def routed(x: Kernel, layer: FeedForward, experts: Experts) -> Kernel:
    r"""Return the kernel of :math:`\sum_e w_e f_e(x)`, and of the shared layer added to it.

    .. math:: K_{ij} \to E\Big[\sum_e w_e(x_i) w_e(x_j)\Big] \hat K_{f,ij}
        + E[s_i s_j] \hat K_{s,ij}

    Experts are independent, so that two tokens have in common what the experts that both are sent
    to make of them. Which these are says next to nothing of a token's direction inside an expert.
    :math:`s = sigmoid(w \cdot x)` is the shared layer's gate, to second order in its score.

    Source: derived here.
    """
    single = replace(layer, experts=None)
    y = multiply(gate_products(x, experts), feed_forward(x, single))
    if experts.shared is not None:
        y = add(y, multiply(_open_share(x, experts), feed_forward(x, experts.shared)))
    return replace(y, mean=mean_of_random_features(y, layer.down.d_out))


def _open_share(x: Kernel, experts: Experts) -> Kernel:
    if experts.shared_gate is None:
        return affine(x, 0.0, 1.0)
    return affine(linear(x, experts.shared_gate), 1 / 16, 1 / 4)


def _routed_backward(g: Kernel, x: Kernel, layer: FeedForward, experts: Experts) -> Kernel:
    r"""Return the gradient kernel below routed experts: through them, and through their gates.

    .. math:: \sum_e w_e J_e^* G + E[w_r^2]\; d\, E\Big[\sum_{ee'} J_{ee'} J_{ee'}\Big]
        \hat K_f G

    with :math:`J_{ee'}` the slope of gate e over score e': each gate's gradient is the product of
    the expert's output with the gradient.

    Source: derived here.
    """
    single = replace(layer, experts=None)
    below = multiply(gate_products(x, experts), feed_forward_backward(g, x, single))
    at_gates = multiply(feed_forward(x, single), g)
    through = multiply(gate_slopes(x, experts), at_gates)
    below = add(below, through, 1.0, layer.down.d_out * experts.router.weight_var)
    if experts.shared is None:
        return below
    behind_gate = multiply(_open_share(x, experts), g)
    below = add(below, feed_forward_backward(behind_gate, x, experts.shared))
    if experts.shared_gate is None:
        return below
    through = multiply(feed_forward(x, experts.shared), g)
    return add(below, through, 1.0, layer.down.d_out * experts.shared_gate.weight_var / 16)


def feed_forward_backward(g: Kernel, x: Kernel, layer: FeedForward) -> Kernel:
    r"""Return the gradient kernel below the branch whose input kernel is `x`.

    .. math:: G \to d_{ff} E[w_1^2]\; E[\phi'\phi'] \; d\,E[w_2^2]\, G

    With a gate it is the sum of the gradients through gate and `up`.

    Source: as `feed_forward`; forward and backward signals taken as independent.
    """
    if layer.experts is not None:
        return _routed_backward(g, x, layer, layer.experts)
    hidden = dropout(linear_backward(g, layer.down), layer.p_drop)
    if layer.gate is None:
        return linear_backward(multiply(hidden, _slopes(x, layer)), layer.up)
    up, act = _up(x, layer), map_pairs(linear(x, layer.gate), dual_of(layer.activation).value)
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
    if layer.experts is not None:
        single = radial_excess(x, replace(layer, experts=None))
        return multiply(gate_products(x, layer.experts), single)
    if layer.gate is not None:
        return linear(dropout(_hidden(x, layer), layer.p_drop), layer.down)
    curved = map_pairs(linear(x, layer.up), dual_of(layer.activation).curvature)
    excess = add(curved, _slopes(x, layer), 1.0, layer.up.bias_var)
    return linear(dropout(excess, layer.p_drop), layer.down)


def _hidden(x: Kernel, layer: FeedForward) -> Kernel:
    dual = dual_of(layer.activation)
    if layer.gate is None:
        return map_pairs(linear(x, layer.up), dual.value)
    return multiply(map_pairs(linear(x, layer.gate), dual.value), _up(x, layer))


def _up(x: Kernel, layer: FeedForward) -> Kernel:
    """Return the kernel of up(x) + c: a constant is the same at all features and tokens."""
    up = linear(x, layer.up)
    return affine(up, 1.0, layer.up_offset**2) if layer.up_offset else up


def _slopes(x: Kernel, layer: FeedForward) -> Kernel:
    before = linear(x, layer.up if layer.gate is None else layer.gate)
    return map_pairs(before, dual_of(layer.activation).slope)
