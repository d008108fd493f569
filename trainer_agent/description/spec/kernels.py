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
    sums = KernelSums(cells)
    sums.add(x, mask)
    return sums.kernel()


class KernelSums:
    """Sums over several batches that make one kernel, as if they were one batch.

    Cells belong to positions, so that batches add up where they fill equally many. Of batches of
    several lengths the length with the most tokens makes the kernel.
    """

    def __init__(self, cells: Callable[[int], Sizes] = dslm.cell_sizes) -> None:
        """Prepare; `cells` as those of `kernel`."""
        self._cells = cells
        # By length: the sums, on the device, and how many tokens they are over, padding included.
        self._sums: dict[int, tuple[Tensor, int]] = {}

    @torch.no_grad()
    def add(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch, (batch, seq, features), with its padding mask (batch, seq)."""
        _check(x, mask)
        x, weight = filled(x.detach(), mask)
        sums = _sums(x, weight, self._cells(x.shape[1]))
        before, tokens = self._sums.get(x.shape[1], (None, 0))
        self._sums[x.shape[1]] = (
            sums if before is None else before + sums.to(before.device),
            tokens + weight.numel(),
        )

    @property
    def length(self) -> int:
        """Positions of the length with the most tokens."""
        return max(self._sums, key=self._tokens)

    @property
    def share(self) -> float:
        """Share of all tokens, padding included, that sequences of that length hold."""
        return self._tokens(self.length) / sum(map(self._tokens, self._sums))

    def _tokens(self, length: int) -> int:
        return self._sums[length][1]

    def kernel(self) -> Kernel:
        """The kernel of the length with the most tokens; waits for the device."""
        return self._of_length(self.length)

    def of_length(self, length: int) -> Kernel | None:
        """The kernel of one length, None where no batch had it; waits for the device."""
        return self._of_length(length) if length in self._sums else None

    def _of_length(self, length: int) -> Kernel:
        sums, _ = self._sums[length]
        with np.errstate(invalid="ignore"):  # Inf and NaN are measured values
            return _assemble(sums.cpu().double().numpy(), self._cells(length))


def _sums(x: Tensor, weight: Tensor, sizes: Sizes) -> Tensor:
    """Flat: products of cells, their pairs of tokens, squares, tokens of each cell, sum of x."""
    # where, not a product: padding may hold NaN, and NaN * 0 is NaN
    values = torch.where(weight.unsqueeze(-1) > 0, x.float(), 0.0)
    sums = cell_sums(values, sizes)
    counts = cell_sums(weight.unsqueeze(-1), sizes)
    squares = cell_sums(values.square().mean(-1, keepdim=True), sizes).sum((0, 2))
    return torch.cat(
        [
            (_gram(sums) / x.shape[-1]).flatten(),
            _gram(counts).flatten(),
            squares,
            counts.sum((0, 2)),
            values.mean(-1).sum().reshape(1),
        ]
    )


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
    if (sizes == 1).all():
        return values
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
