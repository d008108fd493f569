r"""Sums over one tensor from which mean, variance and token correlation follow.

A row of six numbers is a sufficient statistic: rows of several micro-batches, or of several
processes, add up. The L×L products between tokens are never formed: with
:math:`s = \sum_i x_i`, :math:`\sum_{i \ne j} x_i \cdot x_j = |s|^2 - \sum_i |x_i|^2`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger("evenkeel")
# Six numbers that are on the host already, or a tensor (6,) on the device.
MomentRow = tuple[float, ...] | Tensor
TritonRow = Callable[[Tensor, Tensor | None], Tensor | None]


def moment_row(x: Tensor, mask: Tensor | None = None) -> MomentRow:
    """The row of one tensor: six numbers on the host, or (6,), float64 where the device has it.

    Args:
        x: (batch, seq, features), or (seq, features) for one sequence; any floating type.
        mask: (batch, seq), true or non-zero at real tokens; the others are left out.
    """
    x = three_axes(x.detach())
    if torch.compiler.is_compiling():
        return _on_device(x, mask)
    if x.device.type != "cpu":
        fused = triton_moments.row(x, mask) if x.device.type == "cuda" else None
        return _on_device(x, mask) if fused is None else fused
    unmasked = mask is None or bool(mask.all())
    return _on_host(x) if unmasked else _on_device(x, mask)


def moment_sums(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same as a tensor, wherever it was computed."""
    row = moment_row(x, mask)
    return row if isinstance(row, Tensor) else torch.tensor(row, dtype=torch.float64)


def three_axes(x: Tensor) -> Tensor:
    """The tensor as (batch, seq, features)."""
    if x.ndim == 3:
        return x
    if x.ndim < 2:
        raise ValueError(f"a stream has tokens and features, this tensor is {tuple(x.shape)}")
    return x.unsqueeze(0) if x.ndim == 2 else x.flatten(1, -2)


def _on_host(x: Tensor) -> MomentRow:
    """Two passes at memory speed, of a tensor without padding."""
    batch, seq, features = x.shape
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    flat = wide.reshape(-1)
    token_sum = wide.sum(1).reshape(-1)
    total = token_sum.sum().item()
    squares = torch.dot(flat, flat).item()
    # Where the mean outweighs the spread, float32 sums about zero cancel; where values overflow,
    # they say nothing: both are summed again about the mean, in float64.
    if not math.isfinite(squares) or total * total > squares * flat.numel() / 2:
        return _on_device(x, None, working=torch.float64)
    pair_products = torch.dot(token_sum, token_sum).item() - squares
    pairs = batch * seq * (seq - 1) * features
    return flat.numel(), total, squares, pairs, pair_products, 0


def _on_device(x: Tensor, mask: Tensor | None, working: torch.dtype | None = None) -> Tensor:
    """The same sums about the tensor's own mean, with no value brought to the host."""
    final = torch.float32 if x.device.type == "mps" else torch.float64
    wide = x.to(working or (x.dtype if x.dtype == torch.float64 else torch.float32))
    tokens, real = _tokens(x, mask, final)
    values = wide if real is None else torch.where(real, wide, 0.0)
    count = tokens.sum() * x.shape[-1]
    # float32 is enough: any shift near the mean removes the cancellation.
    shift = (values.sum() / count.clamp(min=1)).to(wide.dtype)
    centred = wide - shift if real is None else torch.where(real, wide - shift, 0.0)
    token_sum = centred.sum(1).to(final)
    nonfinite = ~torch.isfinite(values)
    return _uncentred(
        tokens,
        x.shape[-1],
        shift=shift.to(final),
        token_sum=token_sum,
        squares=centred.square().sum(dtype=final),
        nonfinite=nonfinite.sum().to(final),
    )


def _tokens(x: Tensor, mask: Tensor | None, final: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Real tokens per sequence, (batch,), and where they are, (batch, seq, 1)."""
    if mask is None:
        return torch.full((x.shape[0],), x.shape[1], dtype=final, device=x.device), None
    real = mask.to(device=x.device, dtype=torch.bool)
    return real.sum(1).to(final), real.unsqueeze(-1)


def _uncentred(
    tokens: Tensor,
    features: int,
    *,
    shift: Tensor,
    token_sum: Tensor,
    squares: Tensor,
    nonfinite: Tensor,
) -> Tensor:
    """Move sums about `shift` to sums about zero, in the wide type."""
    count = tokens.sum() * features
    per_sequence = token_sum.sum(1)
    total = per_sequence.sum()
    pairs = (tokens * (tokens - 1)).sum() * features
    products = token_sum.square().sum() - squares
    products = products + 2 * shift * ((tokens - 1) * per_sequence).sum() + pairs * shift**2
    return torch.stack(
        [
            count,
            total + count * shift,
            squares + 2 * shift * total + count * shift**2,
            pairs,
            products,
            nonfinite,
        ]
    )


class TritonMoments:
    """Calls `moments_triton`: loads it when first needed, gives it up once it fails."""

    def __init__(self, load: Callable[[], TritonRow]) -> None:
        self._load = load
        self._row: TritonRow | None = None
        self._given_up = False

    def row(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """The row of a CUDA tensor, (6,); None where plain torch has to sum."""
        if self._given_up:
            return None
        try:
            if self._row is None:
                self._row = self._load()
            return self._row(x, mask)
        except Exception as error:  # no Triton, no C compiler, a device that it does not know
            self._given_up = True
            logger.info("evenkeel sums with plain torch, about five passes a tensor: %r", error)
            return None


def _load() -> TritonRow:
    from trainer_agent.capture.statistics import moments_triton

    def row(x: Tensor, mask: Tensor | None) -> Tensor | None:
        return moments_triton.triton_row(x, mask) if moments_triton.takes(x) else None

    return row


triton_moments = TritonMoments(_load)
