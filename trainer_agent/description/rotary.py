"""Rotary position embedding: told from the queries or keys before and after it."""

from __future__ import annotations

import torch
from torch import Tensor

from dslm.spec import Rotary

from .numbers import close


def rotary_between(before: Tensor, after: Tensor) -> Rotary | None:
    """The rotation that turns `before` into `after` (batch, heads, seq, d_head), else None.

    Only angles position * theta^(-2k/features) from position 0 are recognised: the ones the
    theory knows. The result is checked on every entry.
    """
    if before.shape != after.shape or before.shape[-2] < 2 or before.shape[-1] < 4:
        return None
    x, y = before.float(), after.float()
    rotated = _rotated_features(x, y)
    if rotated < 4 or rotated % 2:
        return None
    for interleaved in (False, True):
        theta = _theta(x[..., :rotated], y[..., :rotated], interleaved)
        if theta is None:
            continue
        want = torch.cat([_rotate(x[..., :rotated], theta, interleaved), x[..., rotated:]], -1)
        if close(want, after) or close(after, want.to(after.dtype)):
            return Rotary(theta=theta, fraction=rotated / x.shape[-1])
    return None


def _rotated_features(x: Tensor, y: Tensor) -> int:
    """Leading features that change at some position; the rest passes through."""
    changed = (x != y).flatten(0, -2).any(0).nonzero().flatten()
    return int(changed[-1]) + 1 if len(changed) else 0


def _pairs(x: Tensor, interleaved: bool) -> Tensor:
    """Features as complex pairs."""
    if interleaved:
        return torch.complex(x[..., 0::2], x[..., 1::2])
    half = x.shape[-1] // 2
    return torch.complex(x[..., :half], x[..., half:])


def _rotate(x: Tensor, theta: float, interleaved: bool) -> Tensor:
    pairs = _pairs(x, interleaved)
    seq, n_pairs = pairs.shape[-2:]
    rates = theta ** (-torch.arange(n_pairs, device=x.device, dtype=torch.float64) / n_pairs)
    angles = torch.arange(seq, device=x.device, dtype=torch.float64)[:, None] * rates
    turned = pairs * torch.polar(torch.ones_like(angles), angles).to(pairs.dtype)
    if interleaved:
        return torch.view_as_real(turned).flatten(-2)
    return torch.cat([turned.real, turned.imag], -1)


def _theta(x: Tensor, y: Tensor, interleaved: bool) -> float | None:
    """Theta from how far pairs turn from token to token."""
    before, after = _pairs(x, interleaved), _pairs(y, interleaved)
    turns = (after * before.conj()).sum(tuple(range(before.ndim - 2)))
    angles = torch.atan2(turns.imag, turns.real).cpu().double()  # (seq, pairs)
    n_pairs = angles.shape[-1]
    estimates = [_step(angles[:, k].tolist()) for k in range(1, n_pairs)]
    # theta = step^(-n/k): the pair that turned far, late in the row, gives it best
    sure = [far * step * k for k, (far, step) in enumerate(estimates, start=1)]
    best = max(range(len(sure)), key=sure.__getitem__)
    step = estimates[best][1]
    return _rounded(step ** (-n_pairs / (best + 1))) if 0 < step < 1 else None


def _step(angles: list[float]) -> tuple[int, float]:
    """(tokens apart, angle per token), over as many tokens as stay below half a turn."""
    far, step = 1, angles[1]
    while 2 * far < len(angles) and abs(step) * 2 * far < 2.0:
        far *= 2
        step = angles[far] / far
    return far, step


def _rounded(theta: float) -> float:
    """Thetas are round numbers; low precision gives them within a few percent."""
    for digits, allowed in (("1", 0.02), ("2", 0.005)):
        rounded = float(f"{theta:.{digits}g}")
        if abs(rounded / theta - 1) < allowed:
            return rounded
    return theta
