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

from trainer_agent.capture.moments import COUNT, SQUARES, SUM, Row, three_axes
from trainer_agent.capture.wanted import FORMATS, RANGES, RANKS

# Columns of a row; the maximum is kept apart, because it does not add up.
CUBES, FOURTHS, ZEROS = range(3)
FIRST_RANGE = 3
RANKED = FIRST_RANGE + len(RANGES)
EFFECTIVE, STABLE = RANKED + 1, RANKED + 2
COLUMNS = STABLE + 1

SAMPLED_TOKENS = 64


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
    if "zeros" in wanted or any(name in wanted for name in RANGES):
        real = torch.as_tensor(row[COUNT], dtype=final, device=x.device)
        nonzero = torch.count_nonzero(kept)
        sums[ZEROS] = real - nonzero
        if any(name in wanted for name in RANGES):
            sums[FIRST_RANGE:RANKED] = _losses(kept, largest, kept.numel() - nonzero).to(final)
    return sums, largest


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
    mean = (total / count.clamp(min=1)).to(kept.dtype)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    centred = kept - mean
    if mask is not None:
        centred = torch.where(_real(mask, kept), centred, 0.0)
    flat = centred.div_(unit).reshape(-1)
    square = flat.square()
    mu, unit = mean.to(final), unit.to(final)
    third = torch.dot(square, flat).to(final) * unit**3
    fourth = torch.dot(square, square).to(final) * unit**4
    first, second = total - count * mu, squares - 2 * mu * total + count * mu**2
    return torch.stack(
        [
            third + 3 * mu * second + 3 * mu**2 * first + count * mu**3,
            fourth + 4 * mu * third + 6 * mu**2 * second + 4 * mu**3 * first + count * mu**4,
        ]
    )


def _losses(kept: Tensor, largest: Tensor, zeros: Tensor) -> Tensor:
    """How many values each format cannot hold, (8,): too large, too small."""
    size = kept.abs()
    known = None
    if kept.device.type == "cpu" and not torch.compiler.is_compiling():
        known = float(largest)  # no waiting here: most tensors are far from every upper end
    found = []
    for form in (_FORMATS[name] for name in FORMATS):
        if known is not None and known < form.too_large:
            found.append(torch.zeros_like(zeros))
        else:
            above = size > form.too_large if form.tie_kept else size >= form.too_large
            found.append(torch.count_nonzero(above))
        found.append(torch.count_nonzero(size <= form.too_small) - zeros)
    return torch.stack(found)


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
