r"""Sums over one tensor beyond its moments: fourth powers, zeros, and what a number format loses.

Powers are summed about the tensor's mean, in units of its largest value, and moved to zero in
float64: so they are right for half-precision tensors of large mean and for gradients of 1e-9,
whose fourth power float32 cannot hold, and rows of micro-batches and processes still add up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.capture.statistics.columns import (
    COUNT,
    CUBES,
    EXTRA_COLUMNS,
    FIRST_RANGE,
    FOURTHS,
    RANKED,
    SQUARES,
    SUM,
    ZEROS,
)
from trainer_agent.capture.statistics.moments import MomentRow, three_axes
from trainer_agent.model.sites import FORMATS, RANGES

SAMPLED_TOKENS = 64
# Values that stand for all, in evenly spread tokens, where the shares of small ones are counted.
SAMPLED_VALUES = 1 << 15
PIECE = 1 << 16
SAFE = (1e-4, 1e6)  # largest values whose fourth powers float32 holds


@dataclass(frozen=True, slots=True)
class _Format:
    """Sizes from which on, and up to which, rounding to the nearest loses a value.

    Attributes:
        too_large: the least size that rounds to infinity, or to NaN.
        too_small: the largest size that rounds to zero.
        tie_fits: whether `too_large` itself still rounds to the largest number.
    """

    too_large: float
    too_small: float
    tie_fits: bool = False


# Half a unit in the last place past the largest number; half of the smallest one. A tie goes to
# the even mantissa: to infinity where the largest number's is odd (all but e4m3), and to zero.
_FORMATS = {
    "fp16": _Format(65_520.0, 2.0**-25),
    "bf16": _Format((2 - 2.0**-8) * 2.0**127, 2.0**-134),
    "fp8_e4m3": _Format(464.0, 2.0**-10, tie_fits=True),
    "fp8_e5m2": _Format(61_440.0, 2.0**-17),
}


@torch.no_grad()
def extra_sums(
    x: Tensor, mask: Tensor | None, row: MomentRow, quantities: Collection[str]
) -> tuple[Tensor, Tensor]:
    """Sums of a tensor for these quantities, (14,), and its largest absolute value, ().

    Args:
        x: (batch, seq, features) as for `moment_row`; any floating type.
        mask: (batch, seq), true or non-zero at real tokens.
        row: the tensor's row of moment sums.
        quantities: names; the columns of others stay 0.
    """
    values = _unpadded(x, mask)
    final = torch.float32 if x.device.type == "mps" else torch.float64
    low, high = torch.aminmax(values)
    largest = torch.maximum(-low, high)
    sums = torch.zeros(EXTRA_COLUMNS, dtype=final, device=x.device)
    if "kurtosis" in quantities:
        sums[CUBES : FOURTHS + 1] = _powers(values, mask, row, largest)
    if "zeros" in quantities:
        real = torch.as_tensor(row[COUNT], dtype=final, device=x.device)
        sums[ZEROS] = real - _nonzero(values)
    if any(name in quantities for name in RANGES):
        sums[FIRST_RANGE:RANKED] = _losses(values, mask, row, largest).to(final)
    return sums, largest


def _nonzero(values: Tensor) -> Tensor | float:
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.count_nonzero(values)
    # As sums of ones, in pieces that stay in the cache: counting itself takes twice as long.
    ones = values.new_empty(PIECE)
    pieces = torch.split(values.reshape(-1), PIECE)
    return sum(torch.ne(piece, 0, out=ones[: len(piece)]).sum().item() for piece in pieces)


def _unpadded(x: Tensor, mask: Tensor | None) -> Tensor:
    x = three_axes(x.detach())
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return wide if mask is None else torch.where(_real(mask, x), wide, 0.0)


def _real(mask: Tensor, x: Tensor) -> Tensor:
    return mask.to(device=x.device, dtype=torch.bool).unsqueeze(-1)


def _powers(values: Tensor, mask: Tensor | None, row: MomentRow, largest: Tensor) -> Tensor:
    """Sums of third and fourth powers about zero, (2,)."""
    final = torch.float32 if values.device.type == "mps" else torch.float64
    count, total, squares = (
        torch.as_tensor(row[at], dtype=final, device=values.device) for at in (COUNT, SUM, SQUARES)
    )
    third: float | Tensor
    fourth: float | Tensor
    mu = (total / count.clamp(min=1)).to(values.dtype).to(final)
    if mask is None and values.device.type == "cpu" and not torch.compiler.is_compiling():
        third, fourth = _centred_on_host(values, float(mu), float(largest))
    else:
        third, fourth = _centred(values, mask, mu, largest)
    first, second = total - count * mu, squares - 2 * mu * total + count * mu**2
    return torch.stack(
        [
            third + 3 * mu * second + 3 * mu**2 * first + count * mu**3,
            fourth + 4 * mu * third + 6 * mu**2 * second + 4 * mu**3 * first + count * mu**4,
        ]
    )


def _centred(
    values: Tensor, mask: Tensor | None, mean: Tensor, largest: Tensor
) -> tuple[Tensor, Tensor]:
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    centred = values - mean.to(values.dtype)
    if mask is not None:
        centred = torch.where(_real(mask, values), centred, 0.0)
    flat = centred.div_(unit).reshape(-1)
    square, unit = flat.square(), unit.to(mean)
    third, fourth = torch.dot(square, flat).to(mean), torch.dot(square, square).to(mean)
    return third * unit**3, fourth * unit**4


def _centred_on_host(values: Tensor, mean: float, largest: float) -> tuple[float, float]:
    """The same in pieces that stay in the cache: twice as fast, and no fresh pages each time."""
    unit = 1.0 if SAFE[0] < largest < SAFE[1] or not 0 < largest < float("inf") else largest
    flat = values.reshape(-1)
    centred, square = flat.new_empty(PIECE), flat.new_empty(PIECE)
    third = fourth = 0.0
    for piece in torch.split(flat, PIECE):
        x, squared = centred[: len(piece)], square[: len(piece)]
        torch.sub(piece, mean, out=x)
        if unit != 1.0:
            x.div_(unit)
        torch.mul(x, x, out=squared)
        third += torch.dot(squared, x).item()
        fourth += torch.dot(squared, squared).item()
    return third * unit**3, fourth * unit**4


def _losses(values: Tensor, mask: Tensor | None, row: MomentRow, largest: Tensor) -> Tensor:
    """How many values each format cannot hold, (8,): too large, of all; too small, by a sample."""
    largest_on_host = None
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        # Free here, where nothing waits for it: most tensors are far from every upper end.
        largest_on_host = float(largest)
    tokens = values.reshape(-1, values.shape[-1])
    stride = -(-values.numel() // SAMPLED_VALUES)
    sampled = tokens[::stride].abs()
    # The row's count over the sample's: padding is in neither.
    weight = torch.as_tensor(row[COUNT], device=values.device) / _n_real(sampled, mask, stride)
    zeros = torch.count_nonzero(sampled == 0)
    counts = []
    for form in (_FORMATS[name] for name in FORMATS):
        counts.append(_too_large(values, form, largest_on_host).to(weight))
        counts.append((torch.count_nonzero(sampled <= form.too_small) - zeros) * weight)
    return torch.stack(counts)


def _n_real(sampled: Tensor, mask: Tensor | None, stride: int) -> Tensor | int:
    """How many of the sampled values are no padding; at least 1."""
    if mask is None:
        return max(sampled.numel(), 1)
    real = mask.to(sampled.device).reshape(-1)[::stride] != 0
    return (real.sum() * sampled.shape[-1]).clamp(min=1)


def _too_large(values: Tensor, form: _Format, largest: float | None) -> Tensor:
    if largest is not None and largest < form.too_large:
        return torch.zeros((), dtype=torch.int64)
    size = values.abs()
    return torch.count_nonzero(size > form.too_large if form.tie_fits else size >= form.too_large)


@torch.no_grad()
def token_gram(x: Tensor, mask: Tensor | None, wide: torch.dtype) -> Tensor:
    """Products of up to 64 tokens of the first sequence with each other, (tokens, tokens).

    The tokens lie evenly over the sequence. Padding gives rows of zeros, which leave the
    eigenvalues that are not zero as they are.
    """
    x = three_axes(x.detach())
    stride = -(-x.shape[1] // SAMPLED_TOKENS)
    tokens = x[0, ::stride].to(wide)
    if mask is not None:
        tokens = torch.where(_real(mask, x)[0, ::stride], tokens, 0.0)
    return tokens @ tokens.T


def rank_sums(grams: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Number of Gram matrices, their effective and their stable ranks; (rows, 3), to add up.

    With the eigenvalues :math:`\lambda_i` of :math:`X X^T`, the squared singular values of the
    tokens :math:`X`: stable rank :math:`\sum_i \lambda_i / \max_i \lambda_i` (that is
    :math:`\|X\|_F^2 / \|X\|_2^2`), effective rank :math:`\exp(-\sum_i p_i \ln p_i)` of
    :math:`p_i = \lambda_i / \sum_j \lambda_j`. Both are 1 where all tokens are one vector.

    Args:
        grams: (rows, tokens, tokens); all zero where no token was.

    Source: Roy and Vetterli 2007 for the effective rank, here of eigenvalues where they take
    singular values, so that both ranks follow from the same shares of energy.
    """
    sums = np.zeros((len(grams), 3))
    traces = np.trace(grams, axis1=1, axis2=2)
    finite = np.isfinite(grams).all(axis=(1, 2))
    sums[~finite] = 1, np.nan, np.nan
    usable = finite & (traces > 0)
    if usable.any():
        # Rounding may leave an eigenvalue of a singular matrix below zero.
        values = np.maximum(np.linalg.eigvalsh(grams[usable]), 0.0)
        shares = values / values.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.where(shares > 0, shares * np.log(shares), 0.0).sum(axis=1)
        sums[usable] = np.stack(
            [np.ones(len(values)), np.exp(entropy), 1 / shares.max(axis=1)], axis=1
        )
    return sums
