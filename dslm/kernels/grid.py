"""Arithmetic on kernels over cells of positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dslm.spec import Floats, Kernel

PairFunction = Callable[[Floats, Floats, Floats], Floats]


def prepare(kernel: Kernel) -> Kernel:
    """Return `kernel` in float64, with the unread entries of single-token cells well defined.

    They are set to the diagonal's, as `map_pairs` evaluates its function on them, too.
    """
    diagonal = np.asarray(kernel.diagonal, dtype=np.float64)
    off_diagonal = np.array(kernel.off_diagonal, dtype=np.float64)
    single = np.flatnonzero(kernel.cell_sizes == 1)
    off_diagonal[single, single] = diagonal[single]
    return Kernel(diagonal, off_diagonal, kernel.cell_sizes, kernel.mean)


def merge_cells(kernel: Kernel, starts: NDArray[np.int64]) -> Kernel:
    """Return `kernel` on coarser cells that begin at the cells `starts`."""
    w = kernel.cell_sizes.astype(np.float64)
    sums = dense(kernel) * np.outer(w, w)
    sums = np.add.reduceat(np.add.reduceat(sums, starts, axis=0), starts, axis=1)
    on = np.add.reduceat(w * kernel.diagonal, starts)
    size = np.add.reduceat(w, starts)
    np.fill_diagonal(sums, np.diagonal(sums) - on)  # pairs i≠j only
    n_pairs = np.outer(size, size) - np.diag(size)
    off_diagonal = sums / np.maximum(n_pairs, 1)
    merged = Kernel(on / size, off_diagonal, size.astype(np.int64), kernel.mean)
    return prepare(merged)


def n_tokens(kernel: Kernel) -> int:
    """Return the sequence length L."""
    return int(kernel.cell_sizes.sum())


def mean_diagonal(kernel: Kernel) -> float:
    """Return the mean of K_ii over tokens."""
    return float(kernel.cell_sizes @ kernel.diagonal / n_tokens(kernel))


def mean_off_diagonal(kernel: Kernel) -> float:
    """Return the mean of K_ij over pairs i≠j; NaN for a single token."""
    w = kernel.cell_sizes.astype(np.float64)
    n = float(w.sum())
    if n == 1:  # no pairs
        return float("nan")
    off = kernel.off_diagonal
    total = w @ (off @ w - np.diagonal(off))  # a token's pair with itself left out
    return float(total / (n * n - n))


def variance(kernel: Kernel) -> float:
    """Return the mean second moment minus the squared mean; infinite where that overflowed."""
    second_moment = mean_diagonal(kernel)
    # the mean may have overflowed as well, and inf - inf is NaN
    return second_moment - kernel.mean**2 if np.isfinite(second_moment) else second_moment


def correlation(kernel: Kernel) -> float:
    """Return the token correlation, plain means over tokens and pairs i≠j."""
    var = variance(kernel)
    return (mean_off_diagonal(kernel) - kernel.mean**2) / var if var > 0 else float("nan")


def map_pairs(kernel: Kernel, function: PairFunction, mean: float = 0.0) -> Kernel:
    """Return the kernel of ``function(K_ii, K_jj, K_ij)``, which works elementwise on arrays."""
    d = kernel.diagonal
    off = function(d[:, None], d[None, :], kernel.off_diagonal)
    return Kernel(function(d, d, d), off, kernel.cell_sizes, mean)


def affine(kernel: Kernel, factor: float, constant: float = 0.0) -> Kernel:
    """Return ``factor * K + constant``, of a signal that has no mean."""
    diagonal = factor * kernel.diagonal + constant
    off_diagonal = factor * kernel.off_diagonal + constant
    return Kernel(diagonal, off_diagonal, kernel.cell_sizes)


def multiply(a: Kernel, b: Kernel) -> Kernel:
    """Return the entrywise product: the kernel of a product of independent signals."""
    return Kernel(a.diagonal * b.diagonal, a.off_diagonal * b.off_diagonal, a.cell_sizes)


def add(a: Kernel, b: Kernel, a_factor: float = 1.0, b_factor: float = 1.0) -> Kernel:
    """Return ``a_factor * a + b_factor * b``; squared means add up in the same way."""
    return Kernel(
        a_factor * a.diagonal + b_factor * b.diagonal,
        a_factor * a.off_diagonal + b_factor * b.off_diagonal,
        a.cell_sizes,
        float(np.sqrt(max(a_factor * a.mean**2 + b_factor * b.mean**2, 0.0))),
    )


def dropout(kernel: Kernel, p_drop: float) -> Kernel:
    r"""Return the kernel after inverted dropout, forward or backward.

    .. math:: K_{ii} \to K_{ii} / (1 - p), \quad K_{ij} \to K_{ij}

    Source: arXiv 2403.09635, Table 1; masks of different tokens are independent. Exact.
    """
    if p_drop == 0:
        return kernel
    return replace(kernel, diagonal=kernel.diagonal / (1 - p_drop))


def bounded(kernel: Kernel) -> Kernel:
    r"""Return `kernel` within :math:`K_{ii} \ge 0`, :math:`|K_{ij}| \le \sqrt{K_{ii} K_{jj}}`.

    Differences of large sums leave rounding errors on tokens whose gradient is 1e-16 of another's,
    and these would grow from layer to layer.
    """
    diagonal = np.maximum(kernel.diagonal, 0.0)
    limit = np.sqrt(np.outer(diagonal, diagonal))
    off_diagonal = np.clip(kernel.off_diagonal, -limit, limit)
    return Kernel(diagonal, off_diagonal, kernel.cell_sizes, kernel.mean)


def dense(kernel: Kernel) -> Floats:
    """Return (cells, cells) means over all pairs of the two cells, i=j included."""
    matrix = kernel.off_diagonal.copy()
    w = kernel.cell_sizes
    diagonal = (kernel.diagonal + (w - 1) * np.diagonal(matrix)) / w
    np.fill_diagonal(matrix, diagonal)
    return matrix
