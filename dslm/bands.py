r"""How far one draw of random weights strays from the expectation.

A layer of n random features measures a kernel with an error like a Wishart matrix's:

.. math:: Cov(\hat K_{ij}, \hat K_{kl}) = (K_{ik} K_{jl} + K_{il} K_{jk}) / n,

so the mean diagonal V and the mean off-diagonal M of a branch's output get the covariance
:math:`\frac{2}{n}\begin{pmatrix}\langle K^2\rangle & M^2\\ M^2 & M^2\end{pmatrix}`, the averages
running over all tokens of the batch, and their inner product with the stream, zero in
expectation, adds :math:`\frac{4}{d}\begin{pmatrix}\langle K_x K_f\rangle & M_x M_f\\ M_x M_f &
M_x M_f\end{pmatrix}`. These enter at every branch; what entered below travels on linearly, a
branch passing on an error of its input's correlation by the secant to full correlation. Bands are
two standard deviations.

Source: derived here; checked against fresh draws in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslm.kernels.block import SubLayer
from dslm.kernels.grid import (
    correlation,
    mean_diagonal,
    mean_off_diagonal,
    mean_square,
    multiply,
    n_tokens,
)
from dslm.kernels.stack import GradientLayer, Layer
from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations over depth: of ln(variance), and of the correlation."""

    log_variance: Floats
    correlation: Floats


def forward_spread(layers: list[Layer], batch_size: int) -> Spread:
    """Return the spread of the stream's moments at each of the N + 1 places."""
    error = np.zeros((2, 2))
    log_variance, corr = [0.0], [0.0]
    for layer in layers:
        for sub in layer:
            error = _after_branch(error, sub, batch_size)
        log_variance.append(_log_sd(error, layer[1].y))
        corr.append(_correlation_sd(error, layer[1].y))
    return Spread(np.array(log_variance), np.array(corr))


def backward_spread(layers: list[Layer], gradients: list[GradientLayer], batch_size: int) -> Spread:
    """Return the spread of the gradient's moments, given that the top's are known."""
    forward = forward_spread(layers, batch_size).log_variance
    error, shared = np.zeros((2, 2)), 0.0
    log_variance, corr = [0.0], [0.0]
    for index in range(len(layers) - 1, -1, -1):
        g = gradients[index]
        for sub, above, below in (
            (layers[index][1], g.above, g.between),
            (layers[index][0], g.between, g.below),
        ):
            error = _below_branch(error, sub, above, below, batch_size)
            shared += _norm_share(sub, above, below) * forward[index]
        log_variance.append(float(np.hypot(_log_sd(error, g.below), shared)))
        corr.append(_correlation_sd(error, g.below))
    return Spread(np.array(log_variance[::-1]), np.array(corr[::-1]))


def _after_branch(error: Floats, sub: SubLayer, batch_size: int) -> Floats:
    lam2, beta2 = sub.place.residual.lam**2, sub.place.residual.beta**2
    v, m = mean_diagonal(sub.x), mean_off_diagonal(sub.x)
    response = _response(sub)
    to_correlation = np.array([[-m / v**2, 1 / v]])
    carried = lam2 * np.eye(2) + beta2 * response @ to_correlation
    y = carried @ error @ carried.T
    y += beta2**2 * _wishart(sub.branch, sub, batch_size)
    y += lam2 * beta2 * _inner_product(sub.x, sub.branch, sub.place.d_model, batch_size)
    return y if sub.place.before else _normed(y, sub)


def _response(sub: SubLayer) -> Floats:
    """Return d(V, M of the branch)/d(correlation of its input): the secant to full correlation."""
    r = mean_off_diagonal(sub.inner) / mean_diagonal(sub.inner)
    f, m = (
        mean_diagonal(sub.branch) * (1 - sub.place.residual.p_drop),
        mean_off_diagonal(sub.branch),
    )
    full = f
    if isinstance(sub.layer, Attention):
        layer = sub.layer
        gain = layer.value.weight_var * layer.value.d_in
        full = gain * layer.output.weight_var * layer.output.d_in * mean_diagonal(sub.inner)
    rest = max(1 - r, 1e-9)
    return np.array([[max(full - f, 0.0) / rest], [max(full - m, 0.0) / rest]])


def _normed(error: Floats, sub: SubLayer) -> Floats:
    """Return the error after a norm on the stream: the variance is known, M errs as r does."""
    v, m = mean_diagonal(sub.norm_input), mean_off_diagonal(sub.norm_input)
    to_m = mean_diagonal(sub.y) * np.array([[0.0, 0.0], [-m / v**2, 1 / v]])
    return np.asarray(to_m @ error @ to_m.T)


def _below_branch(
    error: Floats, sub: SubLayer, above: Kernel, below: Kernel, batch_size: int
) -> Floats:
    v, m = mean_diagonal(above), mean_off_diagonal(above)
    gain = mean_diagonal(below) / v
    kept = _kept_gain(sub)
    through = max(gain - kept, 0.0)
    carried = gain * np.eye(2)
    if isinstance(sub.layer, Attention):
        n = n_tokens(above)
        full = through * v / (v / n + max(m, 0.0) * (1 - 1 / n))
        carried = kept * np.eye(2) + full * np.array([[1 / n, 1 - 1 / n], [1 / n, 1 - 1 / n]])
    y = carried @ error @ carried.T
    y += through**2 * _wishart(above, sub, batch_size)
    y += kept * through * _inner_product(above, above, sub.place.d_model, batch_size)
    if not sub.place.before:
        y += gain**2 * _norm_noise(sub, batch_size) * np.outer([v, m], [v, m])
    return np.asarray(y)


def _kept_gain(sub: SubLayer) -> float:
    """Return the gradient's gain along the residual connection alone."""
    lam2 = sub.place.residual.lam**2
    if sub.place.before:
        return lam2
    return lam2 * mean_diagonal(sub.y) / mean_diagonal(sub.norm_input)


def _norm_share(sub: SubLayer, above: Kernel, below: Kernel) -> float:
    """Return the share of the gradient that a Pre-LN branch's norm divided by the stream."""
    if not sub.place.before:
        return 0.0
    whole = mean_diagonal(below)
    kept = sub.place.residual.lam**2 * mean_diagonal(above)
    return float(np.maximum(whole - kept, 0.0)) / whole


def _norm_noise(sub: SubLayer, batch_size: int) -> float:
    lam2, beta2 = sub.place.residual.lam**2, sub.place.residual.beta**2
    noise = beta2**2 * _wishart(sub.branch, sub, batch_size)[0, 0]
    noise += lam2 * beta2 * _inner_product(sub.x, sub.branch, sub.place.d_model, batch_size)[0, 0]
    return float(noise / mean_diagonal(sub.norm_input) ** 2)


def _wishart(kernel: Kernel, sub: SubLayer, batch_size: int) -> Floats:
    layer = sub.layer
    inner = layer.value.d_out if isinstance(layer, Attention) else layer.up.d_out
    rate = 2 * (1 / inner + 1 / sub.place.d_model)
    m2 = mean_off_diagonal(kernel) ** 2
    spread = max(mean_square(kernel) - m2, 0.0) / batch_size
    return rate * np.array([[m2 + spread, m2], [m2, m2]])


def _inner_product(a: Kernel, b: Kernel, d_model: int, batch_size: int) -> Floats:
    m2 = mean_off_diagonal(a) * mean_off_diagonal(b)
    n = n_tokens(a)
    both = multiply(a, b)
    every = mean_diagonal(both) / n + (1 - 1 / n) * mean_off_diagonal(both)
    spread = max(every - m2, 0.0) / batch_size
    return 4 / d_model * np.array([[m2 + spread, m2], [m2, m2]])


def _log_sd(error: Floats, kernel: Kernel) -> float:
    return float(np.sqrt(np.maximum(error[0, 0], 0.0)) / mean_diagonal(kernel))


def _correlation_sd(error: Floats, kernel: Kernel) -> float:
    direction = np.array([-correlation(kernel), 1.0]) / mean_diagonal(kernel)
    return float(np.sqrt(np.maximum(direction @ error @ direction, 0.0)))
