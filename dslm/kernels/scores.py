"""Attention scores: their covariance from the kernel of the attention's input."""

from __future__ import annotations

import numpy as np

from dslm.kernels.grid import dense, map_pairs, n_tokens
from dslm.kernels.linear import linear
from dslm.kernels.visibility import Visibility
from dslm.spec import Attention, Floats, Kernel, Rotary


def query_kernel(x: Kernel, attention: Attention) -> Kernel:
    """Return the kernel of the queries, per feature."""
    return _rotated(linear(x, attention.query), attention)


def key_kernel(x: Kernel, attention: Attention) -> Kernel:
    r"""Return the kernel of the keys, times :math:`d_{head}` and the squared score scale.

    With it the scores of one head have :math:`E[s_{ij} s_{i'k}] = Q_{ii'} T_{jk}`, Q from
    `query_kernel`: a sum of :math:`d_{head}` products of independent zero-mean features.
    """
    factor = attention.score_scale**2 * attention.d_head
    keys = _rotated(linear(x, attention.key), attention)
    return map_pairs(keys, lambda _a, _b, c: factor * c)


def score_variance(x: Kernel, attention: Attention) -> float:
    """Return the variance of one query's scores over the keys it sees, averaged over queries."""
    queries, keys = query_kernel(x, attention), key_kernel(x, attention)
    w = x.cell_sizes.astype(np.float64)
    seen = Visibility(w, attention.causal)
    n_seen = seen.keys(np.ones_like(w))
    mean_square = seen.keys(keys.diagonal) / n_seen
    squared_mean = np.diagonal(seen.keys(seen.keys(dense(keys), 0), 1)) / n_seen**2
    spread = queries.diagonal * np.maximum(mean_square - squared_mean, 0.0)
    return float(w @ spread / n_tokens(x))


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
