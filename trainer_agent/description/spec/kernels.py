"""Second-moment kernels between token positions, measured on a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import dslm
from dslm.spec import Kernel

Sizes = NDArray[np.int64]


@torch.no_grad()
def kernel(
    x: Tensor, mask: Tensor | None = None, cells: Callable[[int], Sizes] = dslm.cell_sizes
) -> Kernel:
    """Kernel of x (batch, seq, features), over batch and features; one copy to the host.

    `cells` says how many tokens share each cell of a sequence of given length. `mask` (batch, seq)
    is true, or 1, at real tokens; positions no sequence fills are left out.
    """
    _check(x, mask)
    x, weight = filled(x.detach(), mask)
    sizes = cells(x.shape[1])
    # where, not a product: padding may hold NaN, and NaN * 0 is NaN
    values = torch.where(weight.unsqueeze(-1) > 0, x.float(), 0.0)
    sums = cell_sums(values, sizes)
    counts = cell_sums(weight.unsqueeze(-1), sizes)
    squares = cell_sums(values.square().mean(-1, keepdim=True), sizes).sum((0, 2))
    packed = torch.cat(
        [
            (_gram(sums) / x.shape[-1]).flatten(),
            _gram(counts).flatten(),
            squares,
            counts.sum((0, 2)),
            values.mean(-1).sum().reshape(1),
        ]
    )
    with np.errstate(invalid="ignore"):  # Inf and NaN are measured values
        return _assemble(packed.cpu().double().numpy(), sizes)


def _check(x: Tensor, mask: Tensor | None) -> None:
    if x.ndim != 3:
        raise ValueError(f"x must be shaped (batch, seq, features), got {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"batch: it holds nothing, {tuple(x.shape)}; give at least one token")
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(f"mask must be shaped {tuple(x.shape[:2])}, got {tuple(mask.shape)}")


def filled(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The positions that a sequence fills, and (batch, seq) weights, 1 at real tokens."""
    if mask is None:
        return x, torch.ones(x.shape[:2], device=x.device)
    weight = mask.to(x.device).float()
    filled_positions = (weight.sum(0) > 0).nonzero().flatten()
    if not len(filled_positions):
        raise ValueError("mask: no token is real; give a batch that holds at least one")
    return x[:, filled_positions], weight[:, filled_positions]


def cell_sums(values: Tensor, sizes: Sizes) -> Tensor:
    """Sum (batch, seq, f) over each cell's tokens: (batch, cells, f)."""
    first = np.flatnonzero(np.diff(sizes, prepend=0))  # cells of one size are summed at once
    counts = np.diff(first, append=len(sizes))
    widths = sizes[first]
    parts = torch.split(values, (counts * widths).tolist(), dim=1)
    return torch.cat(
        [
            torch.unflatten(p, 1, (-1, w)).sum(2)
            for p, w in zip(parts, widths.tolist(), strict=True)
        ],
        1,
    )


def _gram(sums: Tensor) -> Tensor:
    """Inner products between cells, over batch and features."""
    flat = sums.transpose(0, 1).flatten(1)
    return flat @ flat.T


def _assemble(packed: NDArray[np.float64], sizes: Sizes) -> Kernel:
    """Turn sums into means over pairs of different tokens."""
    n = len(sizes)
    products, pairs = packed[: 2 * n**2].reshape(2, n, n)
    squares, tokens = packed[2 * n**2 : -1].reshape(2, n)
    # a cell's products with itself hold each token's square once
    diagonal = np.diag_indices(n)
    products[diagonal] -= squares
    pairs[diagonal] -= tokens
    # pairs of cells that no sequence fills both; or a one-token cell's own entry, never read
    typical = products.sum() / max(pairs.sum(), 1.0)
    return Kernel(
        diagonal=squares / tokens,
        off_diagonal=np.divide(
            products, pairs, out=np.full_like(products, typical), where=pairs > 0
        ),
        cell_sizes=sizes,
        mean=float(packed[-1] / tokens.sum()),
    )
