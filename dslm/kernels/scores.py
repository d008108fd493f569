"""Attention scores: their covariance from the kernels of the queries' and the keys' inputs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dslm.duals.hermite import gaussian_mean
from dslm.kernels.grid import affine, dense, map_pairs, mean_diagonal, n_tokens
from dslm.kernels.linear import linear
from dslm.kernels.norm import centre, norm
from dslm.masks.head_masks import mask_without_bias
from dslm.spec import Attention, Floats, Kernel, Rotary


def query_kernel(x: Kernel, attention: Attention) -> Kernel:
    """Return the kernel of the queries, per feature, after their norm and rotation."""
    return _rotated(norm(raw_queries(x, attention), attention.query_norm), attention)


def raw_queries(x: Kernel, attention: Attention) -> Kernel:
    """Return the kernel of the queries before their norm, if any."""
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
    """Return the kernel of the keys before their norm, if any."""
    return centre(linear(memory, attention.key), attention.key_norm, attention.d_head)


def capped_keys(queries: Kernel, keys: Kernel, attention: Attention) -> Kernel:
    r"""Return T such that :math:`Q_{ii'} T_{jk}` is the covariance of soft-capped scores.

    .. math:: T \to T\,E[c^2 \tanh^2(s/c)] / E[s^2]

    with s Gaussian of the mean score variance: exact for j=k and i=i' at that variance. The capped
    scores are then taken as Gaussian, which holds for c well above their scale.

    Source: derived here.
    """
    return affine(keys, cap_gains(_mean_square(queries, keys), attention.soft_cap)[0])


def cap_slope(queries: Kernel, keys: Kernel, attention: Attention) -> float:
    """Return E[sech⁴(s/c)], the share of a score gradient's energy that a soft cap passes.

    1 without a cap.
    """
    return cap_gains(_mean_square(queries, keys), attention.soft_cap)[1]


def cap_gains(variance: float, soft_cap: float | None) -> tuple[float, float]:
    """Return the gains on energy of c·tanh(s/c), forward and backward, for a Gaussian s."""
    if soft_cap is None or not 0 < variance < np.inf:  # no scores, or ones that overflowed
        return 1.0, 1.0
    relative = variance / soft_cap**2
    value = gaussian_mean(lambda u: np.tanh(u) ** 2, relative) / relative
    return value, gaussian_mean(lambda u: (1 - np.tanh(u) ** 2) ** 2, relative)


def _mean_square(queries: Kernel, keys: Kernel) -> float:
    return mean_diagonal(queries) * mean_diagonal(keys)


def score_variance(x: Kernel, memory: Kernel, attention: Attention) -> float:
    """Return the variance of one query's scores over the keys it sees, averaged over queries.

    It is that of q·k. A position bias is left out, as it is the same in every sequence.
    """
    queries, keys = query_kernel(x, attention), key_kernel(memory, attention)
    keys = capped_keys(queries, keys, attention)
    mask = mask_without_bias(x, memory, attention)
    keys_per_query = mask.keys_per_query
    mean_square = mask.keys(keys.diagonal) / keys_per_query
    squared_mean = np.diagonal(mask.keys(mask.keys(dense(keys), 0), 1)) / keys_per_query**2
    spread = queries.diagonal * np.maximum(mean_square - squared_mean, 0.0)
    return float(mask.query_sizes @ spread / n_tokens(x))


def _rotated(kernel: Kernel, attention: Attention) -> Kernel:
    r"""Multiply a kernel by the mean cosine of the rotation between its two positions.

    A rotation by position turns the covariance of two scores into
    :math:`Q_{ii'} T_{jk}\,\rho((j-k) - (i-i'))`, :math:`\rho(\Delta) = \langle\cos\Delta\theta_f
    \rangle_f`. We use :math:`\rho(i-i')\,\rho(j-k)`, which is exact for i=i' and for j=k, the
    pairs that shape a softmax. Elsewhere the two differ by the covariance over frequencies of two
    cosines (and a product of sines), so by at most 1 times :math:`c K_{ii'} K_{jk}`.

    Source: derived here.
    """
    if attention.rotary is None:
        return kernel
    turned = kernel.off_diagonal * _cosines(kernel, attention)
    diagonal = kernel.diagonal * rotary_gain(attention.rotary)
    single = np.flatnonzero(kernel.cell_sizes == 1)
    turned[single, single] = diagonal[single]
    return Kernel(diagonal, turned, kernel.cell_sizes, kernel.mean)


def rotary_gain(rotary: Rotary) -> float:
    """Return the rotation's gain on the mean energy of a head's features; 1 unless scaled."""
    return 1.0 if rotary.scale == 1 else 1 + rotary.fraction * (rotary.scale**2 - 1)


def _cosines(kernel: Kernel, attention: Attention) -> Floats:
    assert attention.rotary is not None
    sizes = kernel.cell_sizes.astype(np.int64)
    return mean_cosine(sizes.tobytes(), attention.rotary, attention.d_head)


@lru_cache(maxsize=4)  # the same for every layer, and it takes a quarter of a layer's time
def mean_cosine(cell_sizes: bytes, rotary: Rotary, d_head: int) -> Floats:
    r"""Return (cells, cells) the mean of :math:`\rho(i-j)` over i in one cell, j in the other, i≠j.

    With centres c and :math:`D_w(\theta) = \sin(w\theta/2) / (w \sin(\theta/2))`, the mean of
    :math:`e^{i\theta t}` over w consecutive t around 0, two cells have
    :math:`\langle D_w D_{w'} \cos((c-c')\theta_f) \rangle_f`. `cell_sizes` are int64.

    Source: derived here. Exact.
    """
    w = np.frombuffer(cell_sizes, dtype=np.int64).astype(np.float64)
    centres = np.cumsum(w) - w / 2
    frequencies = rotary_frequencies(rotary, d_head)
    n_frequencies = len(frequencies)
    half = np.where(frequencies == 0, 1e-12, frequencies / 2)  # D is 1 in the limit of 0
    damped = np.sin(np.outer(w, half)) / np.outer(w, np.sin(half))
    angle = np.outer(centres, frequencies)
    parts = np.concatenate([damped * np.cos(angle), damped * np.sin(angle)], axis=1)
    cosine = parts @ parts.T / n_frequencies
    within_cell = (w * np.diagonal(cosine) - 1) / np.maximum(w - 1, 1)
    np.fill_diagonal(cosine, np.where(w > 1, within_cell, 1.0))
    turned = (1 - rotary.fraction) + rotary.fraction * rotary.scale**2 * cosine
    turned.flags.writeable = False  # the cache hands out this array
    return np.asarray(turned)


def rotary_frequencies(rotary: Rotary, d_head: int) -> Floats:
    """Return (pairs,) the radians that each pair of a head's features turns from token to token."""
    if rotary.frequencies is not None:
        return np.array(rotary.frequencies, dtype=np.float64)
    n_frequencies = max(int(rotary.fraction * d_head) // 2, 1)
    return np.asarray(rotary.theta ** (-np.arange(n_frequencies) / n_frequencies))
