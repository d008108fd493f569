r"""Sums over one tensor beyond its moments: fourth powers, zeros, and what a number format loses.

Powers are summed about the tensor's mean, in units of its largest value, and moved to zero in
float64: so they are right for half-precision tensors of large mean and for gradients of 1e-9,
whose fourth power float32 cannot hold, and rows of micro-batches and processes still add up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_agent.capture.statistics.moments import COUNT, SQUARES, SUM, Row, three_axes
from trainer_agent.model.sites import FORMATS, RANGES, RANKS

# Columns of a row; the maximum is kept apart, because it does not add up.
CUBES, FOURTHS, ZEROS = range(3)
FIRST_RANGE = 3
RANKED = FIRST_RANGE + len(RANGES)
EFFECTIVE, STABLE = RANKED + 1, RANKED + 2
COLUMNS = STABLE + 1

SAMPLED_TOKENS = 64
# Values that stand for all, in evenly spread tokens, where the shares of small ones are counted.
SAMPLED_VALUES = 1 << 15
PIECE = 1 << 16
SAFE = (1e-4, 1e6)  # largest values whose fourth powers float32 holds


@dataclass(frozen=True, slots=True)
class _Format:
    """Sizes from which on, and up to which, rounding to the nearest loses a value.

    `tie_kept` says that `too_large` itself still rounds to the largest number.
    """

    too_large: float
    too_small: float
    tie_kept: bool = False


# Half a unit in the last place past the largest number; half of the smallest one. A tie goes to
# the even mantissa: to infinity where the largest number's is odd (all but e4m3), and to zero.
_FORMATS = {
    "fp16": _Format(65_520.0, 2.0**-25),
    "bf16": _Format((2 - 2.0**-8) * 2.0**127, 2.0**-134),
    "fp8_e4m3": _Format(464.0, 2.0**-10, tie_kept=True),
    "fp8_e5m2": _Format(61_440.0, 2.0**-17),
}


@torch.no_grad()
def tail_sums(
    x: Tensor, mask: Tensor | None, row: Row, wanted: Collection[str]
) -> tuple[Tensor, Tensor]:
    """What is wanted of one tensor, (14,), and its largest absolute value, ().

    Args:
        x: (batch, seq, features) as for `moment_row`; any floating type.
        mask: (batch, seq), true or non-zero at real tokens.
        row: the tensor's row of moment sums.
        wanted: names of quantities; columns of others stay 0.
    """
    kept = _kept(x, mask)
    final = torch.float32 if x.device.type == "mps" else torch.float64
    low, high = torch.aminmax(kept)
    largest = torch.maximum(-low, high)
    sums = torch.zeros(COLUMNS, dtype=final, device=x.device)
    if "kurtosis" in wanted:
        sums[CUBES : FOURTHS + 1] = _powers(kept, mask, row, largest)
    if "zeros" in wanted:
        real = torch.as_tensor(row[COUNT], dtype=final, device=x.device)
        sums[ZEROS] = real - _nonzero(kept)
    if any(name in wanted for name in RANGES):
        sums[FIRST_RANGE:RANKED] = _losses(kept, mask, row, largest).to(final)
    return sums, largest


def _nonzero(kept: Tensor) -> Tensor | float:
    if kept.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.count_nonzero(kept)
    # As sums of ones, in pieces that stay in the cache: counting itself takes twice as long.
    ones = kept.new_empty(PIECE)
    pieces = torch.split(kept.reshape(-1), PIECE)
    return sum(torch.ne(one, 0, out=ones[: len(one)]).sum().item() for one in pieces)


def _kept(x: Tensor, mask: Tensor | None) -> Tensor:
    x = three_axes(x.detach())
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return wide if mask is None else torch.where(_real(mask, x), wide, 0.0)


def _real(mask: Tensor, x: Tensor) -> Tensor:
    return mask.to(device=x.device, dtype=torch.bool).unsqueeze(-1)


def _powers(kept: Tensor, mask: Tensor | None, row: Row, largest: Tensor) -> Tensor:
    """Sums of third and fourth powers about zero, (2,)."""
    final = torch.float32 if kept.device.type == "mps" else torch.float64
    count, total, squares = (
        torch.as_tensor(row[at], dtype=final, device=kept.device) for at in (COUNT, SUM, SQUARES)
    )
    third: float | Tensor
    fourth: float | Tensor
    mu = (total / count.clamp(min=1)).to(kept.dtype).to(final)
    if mask is None and kept.device.type == "cpu" and not torch.compiler.is_compiling():
        third, fourth = _centred_on_host(kept, float(mu), float(largest))
    else:
        third, fourth = _centred(kept, mask, mu, largest)
    first, second = total - count * mu, squares - 2 * mu * total + count * mu**2
    return torch.stack(
        [
            third + 3 * mu * second + 3 * mu**2 * first + count * mu**3,
            fourth + 4 * mu * third + 6 * mu**2 * second + 4 * mu**3 * first + count * mu**4,
        ]
    )


def _centred(
    kept: Tensor, mask: Tensor | None, mean: Tensor, largest: Tensor
) -> tuple[Tensor, Tensor]:
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    centred = kept - mean.to(kept.dtype)
    if mask is not None:
        centred = torch.where(_real(mask, kept), centred, 0.0)
    flat = centred.div_(unit).reshape(-1)
    square, unit = flat.square(), unit.to(mean)
    third, fourth = torch.dot(square, flat).to(mean), torch.dot(square, square).to(mean)
    return third * unit**3, fourth * unit**4


def _centred_on_host(kept: Tensor, mean: float, largest: float) -> tuple[float, float]:
    """The same in pieces that stay in the cache: twice as fast, and no fresh pages each time."""
    unit = 1.0 if SAFE[0] < largest < SAFE[1] or not 0 < largest < float("inf") else largest
    flat = kept.reshape(-1)
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


def _losses(kept: Tensor, mask: Tensor | None, row: Row, largest: Tensor) -> Tensor:
    """How many values each format cannot hold, (8,): too large, of all; too small, by a sample."""
    known = None
    if kept.device.type == "cpu" and not torch.compiler.is_compiling():
        known = float(largest)  # no waiting here: most tensors are far from every upper end
    tokens = kept.reshape(-1, kept.shape[-1])
    stride = -(-kept.numel() // SAMPLED_VALUES)
    some = tokens[::stride].abs()
    # The row's count over the sample's: padding is in neither.
    each = torch.as_tensor(row[COUNT], device=kept.device) / _seen(some, mask, stride)
    zeros = torch.count_nonzero(some == 0)
    found = []
    for form in (_FORMATS[name] for name in FORMATS):
        found.append(_too_large(kept, form, known).to(each))
        found.append((torch.count_nonzero(some <= form.too_small) - zeros) * each)
    return torch.stack(found)


def _seen(some: Tensor, mask: Tensor | None, stride: int) -> Tensor | int:
    """How many of the sampled values are no padding; at least 1."""
    if mask is None:
        return max(some.numel(), 1)
    real = mask.to(some.device).reshape(-1)[::stride] != 0
    return (real.sum() * some.shape[-1]).clamp(min=1)


def _too_large(kept: Tensor, form: _Format, largest: float | None) -> Tensor:
    if largest is not None and largest < form.too_large:
        return torch.zeros((), dtype=torch.int64)
    size = kept.abs()
    return torch.count_nonzero(size > form.too_large if form.tie_kept else size >= form.too_large)


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


RANK_COLUMNS = dict(zip(RANKS, (EFFECTIVE, STABLE), strict=True))
RANGE_COLUMNS = {name: FIRST_RANGE + at for at, name in enumerate(RANGES)}
