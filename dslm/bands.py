r"""How far one draw of random weights strays from the expectation.

A layer of n random features estimates a kernel with the error of a Wishart matrix:

.. math:: Cov(\hat K_{ij}, \hat K_{kl}) = (K_{ik} K_{jl} + K_{il} K_{jk}) / n

Let V be the mean diagonal of a branch's output and M its mean off-diagonal, over all tokens of the
batch. The errors of (V, M) then have the covariance

.. math:: \frac{2}{n}\begin{pmatrix}\langle K^2\rangle & M^2\\ M^2 & M^2\end{pmatrix}

The branch's inner product with the stream, zero in expectation, adds

.. math:: \frac{4}{d}\begin{pmatrix}\langle K_x K_f\rangle & M_x M_f\\ M_x M_f & M_x M_f
    \end{pmatrix}

Both terms enter at every branch. Errors from lower branches propagate linearly; a branch passes on
an error of its input's correlation by the secant to full correlation. Bands are two standard
deviations of the logarithm of a variance around its typical draw (`dslm.curves`).

Source: derived here; checked against fresh draws in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslm.kernels.block import Layer, SubLayer
from dslm.kernels.grid import (
    correlation,
    mean_diagonal,
    mean_off_diagonal,
    multiply,
    n_tokens,
)
from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations over draws of the weights, each float64[N+1].

    Attributes:
        log_variance: of ln(variance).
        correlation: of the correlation.
    """

    log_variance: Floats
    correlation: Floats


def forward_spread(layers: list[Layer], batch_size: int) -> Spread:
    """Return the spread of the stream's moments at the input of each block and at the top."""
    error, repeats = np.zeros((2, 2)), 1.0
    log_variance, corr = [0.0], [0.0]
    for layer in layers:
        for sub in layer:
            error = _after_branch(error, sub, batch_size, repeats)
            repeats *= _skip_share(sub)
        log_variance.append(_log_sd(error, layer[-1].y))
        corr.append(_correlation_sd(error, layer[-1].y))
    return Spread(np.array(log_variance), np.array(corr))


def backward_spread(
    layers: list[Layer],
    gradients: tuple[tuple[Kernel, ...], ...],
    batch_size: int,
    forward: Spread,
) -> Spread:
    """Return the spread of the gradient's moments, which is 0 at the top.

    `gradients` are those of the highest blocks, `forward` is the spread of the stream's moments.
    """
    error, shared = np.zeros((2, 2)), 0.0
    log_variance, corr = [0.0], [0.0]
    lowest = len(layers) - len(gradients)
    for index in range(len(layers) - 1, lowest - 1, -1):
        g = gradients[index - lowest]
        for sub, above, below in reversed(list(zip(layers[index], g[1:], g, strict=False))):
            error = _below_branch(error, sub, above, below, batch_size)
            shared += _norm_share(sub, above, below) * forward.log_variance[index]
        log_variance.append(float(np.hypot(_log_sd(error, g[0]), shared)))
        corr.append(_correlation_sd(error, g[0]))
    return Spread(np.array(log_variance[::-1]), np.array(corr[::-1]))


def _skip_share(sub: SubLayer) -> float:
    """Return the share of the residual sum's energy that is the stream's before the branch."""
    share = sub.placement.residual.lam**2 * mean_diagonal(sub.x) / mean_diagonal(sub.summed)
    return float(np.nan_to_num(np.clip(share, 0.0, 1.0), nan=1.0))


def _after_branch(error: Floats, sub: SubLayer, batch_size: int, repeats: float) -> Floats:
    lam2, beta2 = sub.placement.residual.lam**2, sub.placement.residual.beta**2
    v, m = mean_diagonal(sub.x), mean_off_diagonal(sub.x)
    response = _response(sub)
    to_correlation = np.array([[-m / v / v, 1 / v]])
    carried = lam2 * np.eye(2) + beta2 * response @ to_correlation
    y = carried @ error @ carried.T
    # products, as a power of a plain float raises where a product becomes infinite
    y += beta2 * beta2 * _branch_noise(sub, batch_size, repeats)
    y += (
        lam2 * beta2 * _inner_product(sub.x, sub.branch, sub.placement.d_model, batch_size, repeats)
    )
    return y if sub.placement.on_sum is None else _normed(y, sub.summed, sub.y)


def _response(sub: SubLayer) -> Floats:
    """Return d(V, M)/d(correlation of the input): the secant to full correlation, (2, 1)."""
    r = mean_off_diagonal(sub.inner) / mean_diagonal(sub.inner)
    f, m = mean_diagonal(sub.raw), mean_off_diagonal(sub.raw)
    at_full = f
    if isinstance(sub.layer, Attention):
        layer = sub.layer
        gain = layer.value.weight_var * layer.value.d_in
        at_full = gain * layer.output.weight_var * layer.output.d_in * mean_diagonal(sub.inner)
    below_full = max(1 - r, 1e-9)  # tokens that are one vector already leave no secant
    response = np.array(
        [[max(at_full - f, 0.0) / below_full], [max(at_full - m, 0.0) / below_full]]
    )
    if sub.placement.on_branch is None:
        return response
    return np.asarray(_through_norm(sub.raw, sub.branch) @ response)


def _normed(error: Floats, before: Kernel, after: Kernel) -> Floats:
    """Return the error after a norm, which fixes the variance: M errs as the correlation does."""
    to_m = _through_norm(before, after)
    return np.asarray(to_m @ error @ to_m.T)


def _through_norm(before: Kernel, after: Kernel) -> Floats:
    v, m = mean_diagonal(before), mean_off_diagonal(before)
    if v == 0.0:  # a branch whose output is 0 in every draw
        return np.zeros((2, 2))
    return mean_diagonal(after) / v * np.array([[0.0, 0.0], [-m / v, 1.0]])


def _branch_noise(sub: SubLayer, batch_size: int, repeats: float = 1.0) -> Floats:
    if sub.placement.on_branch is None:
        return _wishart(sub.branch, sub, batch_size, repeats)
    return _normed(_wishart(sub.raw, sub, batch_size, repeats), sub.raw, sub.branch)


def _below_branch(
    error: Floats, sub: SubLayer, above: Kernel, below: Kernel, batch_size: int
) -> Floats:
    lam2, beta2 = sub.placement.residual.lam**2, sub.placement.residual.beta**2
    outside = _gain(sub.summed, sub.y)
    v, m = mean_diagonal(above), mean_off_diagonal(above)
    through = np.array([mean_diagonal(below), mean_off_diagonal(below)]) / outside
    through = np.maximum(through - lam2 * np.array([v, m]), 0.0)
    response = _backward_response(sub, np.array([v, m]), through / beta2 if beta2 else through)
    carried = outside * (lam2 * np.eye(2) + beta2 * response)
    y = carried @ error @ carried.T
    y += (outside * through[0] / v) ** 2 * _wishart(above, sub, batch_size)
    cross = _inner_product(above, above, sub.placement.d_model, batch_size)
    y += outside**2 * lam2 * through[0] / v * cross
    if sub.placement.on_sum is not None:
        y += _norm_noise(sub, batch_size) * outside**2 * np.outer([v, m], [v, m])
    return np.asarray(y)


def _backward_response(sub: SubLayer, above: Floats, through: Floats) -> Floats:
    """Return d(V, M below the branch)/d(V, M above it), (2, 2).

    Attention mixes the two, with weights that add up to its gain on a gradient that all tokens
    share. A feed-forward branch has one gain for each.
    """
    v, m = above
    if not isinstance(sub.layer, Attention):
        on = through[0] / v
        off = np.clip(through[1] / m, 0.0, on) if m > 0 else on
        return np.diag([on, off])
    layer = sub.layer
    shared_gain = layer.output.d_in * layer.value.weight_var * layer.output.d_out
    shared_gain *= layer.output.weight_var * _gain(sub.source, sub.inner)
    shared_gain *= 1.0 if sub.placement.on_branch is None else _gain(sub.raw, sub.branch)
    to_itself = np.clip((through / shared_gain - m) / (v - m), 0.0, 1.0) if v > m else np.zeros(2)
    return np.asarray(shared_gain * np.stack([to_itself, 1 - to_itself], axis=1))


def _gain(before: Kernel, after: Kernel) -> float:
    """Return the squared gain on a gradient of the norm between two kernels; 1 without one."""
    return mean_diagonal(after) / mean_diagonal(before)


def _norm_share(sub: SubLayer, above: Kernel, below: Kernel) -> float:
    """Return the share of the gradient that went through a branch, and so through its norm.

    A norm divides it by the stream's size, whose error it then has. A Post-LN sum is normalised
    itself: `_norm_noise` covers that.
    """
    if sub.placement.on_sum is not None:
        return 0.0
    total = mean_diagonal(below)
    skip = sub.placement.residual.lam**2 * mean_diagonal(above)
    return float(np.maximum(total - skip, 0.0)) / total


def _norm_noise(sub: SubLayer, batch_size: int) -> float:
    lam2, beta2 = sub.placement.residual.lam**2, sub.placement.residual.beta**2
    noise = beta2 * beta2 * _branch_noise(sub, batch_size)[0, 0]
    noise += (
        lam2 * beta2 * _inner_product(sub.x, sub.branch, sub.placement.d_model, batch_size)[0, 0]
    )
    total = mean_diagonal(sub.summed)
    return float(noise / total / total)


def _wishart(kernel: Kernel, sub: SubLayer, batch_size: int, repeats: float = 1.0) -> Floats:
    layer = sub.layer
    if isinstance(layer, Attention):  # its outputs are averages: similar, but no two are equal
        inner, repeats = layer.value.d_out, 0.0
    else:
        inner = layer.up.d_out
    rate = 2 * (1 / inner + 1 / sub.placement.d_model)
    return rate * _pair_moments(kernel, kernel, batch_size, repeats)


def _inner_product(
    a: Kernel, b: Kernel, d_model: int, batch_size: int, repeats: float = 1.0
) -> Floats:
    return 4 / d_model * _pair_moments(a, b, batch_size, repeats)


def _pair_moments(a: Kernel, b: Kernel, batch_size: int, repeats: float = 1.0) -> Floats:
    """Return averages of K_ij·K'_ij over the pairs of tokens in V·V, V·M and M·M, (2, 2).

    A mean kernel does not say whether all pairs are a little similar or a few of them equal, as
    tokens that repeat are. For V·V of embeddings we take the middle of both cases, (r² + r)/2 in
    place of r². Attention makes tokens similar: `repeats` is the share of the stream's energy
    that comes from the embeddings.
    """
    n = n_tokens(a) * batch_size
    product = multiply(a, b)
    similar = mean_off_diagonal(product)
    equal = np.sqrt(np.abs(mean_off_diagonal(a) * mean_off_diagonal(b) * mean_diagonal(product)))
    vv = similar + repeats * np.maximum(equal - similar, 0.0) / 2 + mean_diagonal(product) / n
    w = a.cell_sizes / a.cell_sizes.sum()
    rows = (a.off_diagonal @ w) * (b.off_diagonal @ w)
    mm = mean_off_diagonal(a) * mean_off_diagonal(b) + mean_diagonal(product) / (n * n_tokens(a))
    vm = np.minimum(
        w @ rows, np.sqrt(vv * np.abs(mm))
    )  # else no covariance matrix (Cauchy-Schwarz)
    return np.array([[vv, vm], [vm, mm]])


def _log_sd(error: Floats, kernel: Kernel) -> float:
    return float(np.sqrt(np.maximum(error[0, 0], 0.0)) / mean_diagonal(kernel))


def _correlation_sd(error: Floats, kernel: Kernel) -> float:
    direction = np.array([-correlation(kernel), 1.0]) / mean_diagonal(kernel)
    return float(np.sqrt(np.maximum(direction @ error @ direction, 0.0)))
