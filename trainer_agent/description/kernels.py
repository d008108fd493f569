"""Second-moment kernels between token positions, measured on a batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dslm.spec import Kernel

MAX_CELLS = 256


@torch.no_grad()
def kernel(x: Tensor, mask: Tensor | None = None) -> Kernel:
    """Kernel of x (batch, seq, features), over batch and features; one copy to the host.

    Up to 256 tokens each has its own cell; longer sequences use 129 to 256 cells. `mask`
    (batch, seq) is true, or 1, at real tokens; positions no sequence fills are left out.
    """
    _check(x, mask)
    width = math.ceil(x.shape[1] / MAX_CELLS)
    weight = torch.ones(x.shape[:2], device=x.device) if mask is None else mask.to(x.device).float()
    # where, not a product: padding may hold NaN, and NaN * 0 is NaN
    values = torch.where(weight.unsqueeze(-1) > 0, x.detach().float(), 0.0)
    sums = _cell_sums(values, width)
    counts = _cell_sums(weight.unsqueeze(-1), width)
    squares = _cell_sums(values.square().mean(-1, keepdim=True), width).sum((0, 2))
    packed = torch.cat(
        [
            (_gram(sums) / x.shape[-1]).flatten(),
            _gram(counts).flatten(),
            squares,
            counts.sum((0, 2)),
            _tokens_seen(weight, width),
            values.mean(-1).sum().reshape(1),
        ]
    )
    with np.errstate(invalid="ignore"):  # Inf and NaN are measured values
        return _assemble(packed.cpu().double().numpy())


def _check(x: Tensor, mask: Tensor | None) -> None:
    if x.ndim != 3:
        raise ValueError(f"x must be shaped (batch, seq, features), got {tuple(x.shape)}")
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(f"mask must be shaped {tuple(x.shape[:2])}, got {tuple(mask.shape)}")


def _cell_sums(values: Tensor, width: int) -> Tensor:
    """Sum (batch, seq, f) over runs of `width` tokens: (batch, cells, f)."""
    batch, seq, features = values.shape
    padded = torch.nn.functional.pad(values, (0, 0, 0, -seq % width))
    return padded.reshape(batch, -1, width, features).sum(2)


def _gram(sums: Tensor) -> Tensor:
    """Inner products between cells, over batch and features."""
    flat = sums.transpose(0, 1).flatten(1)
    return flat @ flat.T


def _tokens_seen(weight: Tensor, width: int) -> Tensor:
    """Positions of each cell that at least one sequence fills."""
    seen = (weight.sum(0) > 0).float()
    return _cell_sums(seen.reshape(1, -1, 1), width).flatten()


def _assemble(packed: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Kernel:
    """Turn sums into means over pairs of different tokens."""
    cells = round((math.sqrt(9 + 8 * (len(packed) - 1)) - 3) / 4)  # 2 c² + 3 c + 1 numbers
    products, pairs = packed[: 2 * cells**2].reshape(2, cells, cells)
    squares, tokens, sizes = packed[2 * cells**2 : -1].reshape(3, cells)
    # a cell's products with itself hold each token's square once
    own = np.diag_indices(cells)
    products[own] -= squares
    pairs[own] -= tokens
    kept = sizes > 0
    products, pairs = products[np.ix_(kept, kept)], pairs[np.ix_(kept, kept)]
    diagonal = squares[kept] / tokens[kept]
    # pairs of cells that no sequence fills both; or a one-token cell's own entry, never read
    typical = products.sum() / max(pairs.sum(), 1.0)
    off_diagonal = np.divide(products, pairs, out=np.full_like(products, typical), where=pairs > 0)
    return Kernel(
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        cell_sizes=sizes[kept].astype(np.int64),
        mean=float(packed[-1] / tokens.sum()),
    )
