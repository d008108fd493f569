"""Attention scores: their covariance from the kernels of what queries and keys are made of."""

from __future__ import annotations

import numpy as np

from dslm.duals.hermite import gaussian_mean
from dslm.kernels.grid import affine, dense, map_pairs, mean_diagonal, n_tokens
from dslm.kernels.linear import linear
from dslm.kernels.norm import centre, norm
from dslm.kernels.visibility import visibility
from dslm.spec import Attention, Floats, Kernel, Rotary


def query_kernel(x: Kernel, attention: Attention) -> Kernel:
    """Return the kernel of the queries, per feature, after their norm and rotation."""
    return _rotated(norm(raw_queries(x, attention), attention.query_norm), attention)


def raw_queries(x: Kernel, attention: Attention) -> Kernel:
    """Return the kernel of the queries as their norm, if any, receives them."""
    return centre(linear(x, attention.query), attention.query_norm, attention.d_head)


def key_kernel(memory: Kernel, attention: Attention) -> Kernel:
    r"""Return the kernel of the keys, times :math:`d_{head}` and the squared score scale.

    With it the scores of one head have :math:`E[s_{ij} s_{i'k}] = Q_{ii'} T_{jk}`, Q from
    `query_kernel`: a sum of :math:`d_{head}` products of independent zero-mean features.
    """
    factor = attention.score_scale**2 * attention.d_head
    keys = _rotated(norm(raw_keys(memory, attention), attention.key_norm), attention)
    return map_pairs(keys, lambda _a, _b, c: factor * c)


def raw_keys(memory: Kernel, attention: Attention) -> Kernel:
    """Return the kernel of the keys as their norm, if any, receives them."""
    return centre(linear(memory, attention.key), attention.key_norm, attention.d_head)


def capped_keys(queries: Kernel, keys: Kernel, attention: Attention) -> Kernel:
    r"""Return T such that :math:`Q_{ii'} T_{jk}` is the covariance of soft-capped scores.

    .. math:: T \to T\,E[c^2 \tanh^2(s/c)] / E[s^2]

    s Gaussian of the mean score variance: exact for j=k and i=i' at that variance; the capped
    scores are then taken as Gaussian, which they are for c well above their scale.

    Source: derived here.
    """
    return affine(keys, cap_gains(_mean_square(queries, keys), attention.soft_cap)[0])


def cap_slope(queries: Kernel, keys: Kernel, attention: Attention) -> float:
    """Return E[sech⁴(s/c)], what a soft cap leaves of a score gradient's energy; 1 without."""
    return cap_gains(_mean_square(queries, keys), attention.soft_cap)[1]


def cap_gains(variance: float, soft_cap: float | None) -> tuple[float, float]:
    """Return the gains on energy of c·tanh(s/c), forward and backward, for a Gaussian s."""
    if soft_cap is None or not 0 < variance < np.inf:
        return 1.0, 1.0
    relative = variance / soft_cap**2
    value = gaussian_mean(lambda u: np.tanh(u) ** 2, relative) / relative
    return value, gaussian_mean(lambda u: (1 - np.tanh(u) ** 2) ** 2, relative)


def _mean_square(queries: Kernel, keys: Kernel) -> float:
    return mean_diagonal(queries) * mean_diagonal(keys)


def score_variance(x: Kernel, memory: Kernel, attention: Attention) -> float:
    """Return the variance of one query's scores over the keys it sees, averaged over queries."""
    queries, keys = query_kernel(x, attention), key_kernel(memory, attention)
    keys = capped_keys(queries, keys, attention)
    seen = visibility(x, memory, attention)
    n_seen = seen.keys(np.ones_like(seen.key_sizes))
    mean_square = seen.keys(keys.diagonal) / n_seen
    squared_mean = np.diagonal(seen.keys(seen.keys(dense(keys), 0), 1)) / n_seen**2
    spread = queries.diagonal * np.maximum(mean_square - squared_mean, 0.0)
    return float(seen.query_sizes @ spread / n_tokens(x))


def _rotated(kernel: Kernel, attention: Attention) -> Kernel:
    r"""Multiply a kernel by the mean cosine of the rotation between its two positions.

    A rotation by position turns the covariance of two scores into
    :math:`Q_{ii'} T_{jk}\,\rho((j-k) - (i-i'))`, :math:`\rho(\Delta) = \langle\cos\Delta\theta_f
    \rangle_f`. We use :math:`\rho(i-i')\,\rho(j-k)`: exact for i=i' and for j=k, which is where
    a softmax is shaped; elsewhere the two differ by the covariance over frequencies of two
    cosines (and a product of sines), so by at most 1 of a term that is c·K_ii'·K_jk.

    Source: derived here.
    """
    if attention.rotary is None:
        return kernel
    distance = _distances(kernel.cell_sizes.astype(np.float64))
    turned = kernel.off_diagonal * mean_cosine(distance, attention.rotary, attention.d_head)
    single = np.flatnonzero(kernel.cell_sizes == 1)
    turned[single, single] = kernel.diagonal[single]
    return Kernel(kernel.diagonal, turned, kernel.cell_sizes, kernel.mean)


def _distances(cell_sizes: Floats) -> Floats:
    """Return typical distances between tokens of two cells; w/3 within a cell of w tokens."""
    centres = np.cumsum(cell_sizes) - cell_sizes / 2
    distance = np.abs(centres[:, None] - centres[None, :])
    np.fill_diagonal(distance, (cell_sizes + 1) / 3)
    return np.asarray(distance)


def mean_cosine(distance: Floats, rotary: Rotary, d_head: int) -> Floats:
    r"""Return :math:`\rho(\Delta)`: the mean over a head's features of the cosine of its turn."""
    n_frequencies = max(int(rotary.fraction * d_head) // 2, 1)
    frequencies = rotary.theta ** (-np.arange(n_frequencies) / n_frequencies)
    unique, inverse = np.unique(distance, return_inverse=True)
    cosine = np.cos(np.outer(unique, frequencies)).mean(axis=1)
    turned = (1 - rotary.fraction) + rotary.fraction * cosine
    return np.asarray(turned[inverse].reshape(distance.shape))
