"""Rotary position embedding: told from the queries or keys before and after it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from dslm.spec import Rotary
from trainer_agent.description.read.tolerance import TOLERANCE, close

SAME_ANGLE = 0.01  # radians, and relative sizes, that rounding may account for


def rotary_between(before: Tensor, after: Tensor) -> Rotary | None:
    """The rotation that turns `before` into `after` (batch, heads, seq, d_head), else None.

    Angles grow in proportion to position, from position 0: either as position * theta^(-k/pairs),
    or at rates of each pair's own (scaled embeddings), cosine and sine times a factor or not. The
    result is checked on every entry.
    """
    if before.shape != after.shape or before.shape[-2] < 2 or before.shape[-1] < 4:
        return None
    x, y = before.float(), after.float()
    first, last = _rotated_features(x, y)
    rotated = last - first
    if rotated < 4 or rotated % 2:
        return None
    part, turned_part = x[..., first:last], y[..., first:last]
    for interleaved, apart in ((False, False), (True, False), (True, True)):
        # Some take pairs that lie side by side, and put out all first and all second halves.
        put_out = _paired(turned_part) if apart else turned_part
        for rotary in _candidates(part, put_out, interleaved):
            turned = _rotate(part, rotary, interleaved)
            turned = torch.cat([turned[..., 0::2], turned[..., 1::2]], -1) if apart else turned
            want = torch.cat([x[..., :first], turned, x[..., last:]], -1)
            if close(want, after) or close(after, want.to(after.dtype)):
                return replace(rotary, fraction=rotated / x.shape[-1])
    return None


def same_rotation(a: Rotary | None, b: Rotary | None, turned: Tensor) -> bool:
    """Whether two rotations read from numbers are one, within what rounding does to angles.

    `turned` (..., seq, d_head) is what one of them was read from.
    """
    if a is None or b is None or a.frequencies is None or b.frequencies is None:
        return a == b
    if len(a.frequencies) != len(b.frequencies) or a.fraction != b.fraction:
        return False
    apart = max(abs(x - y) for x, y in zip(a.frequencies, b.frequencies, strict=True))
    rounding = max(SAME_ANGLE, 3 * TOLERANCE.get(turned.dtype, 0.0))
    return apart * turned.shape[-2] < rounding and abs(a.scale - b.scale) < rounding


def _rotated_features(x: Tensor, y: Tensor) -> tuple[int, int]:
    """The run of features, end excluded, that change at some position; others pass through."""
    changed = (x != y).flatten(0, -2).any(0).nonzero().flatten()
    if not len(changed):
        return 0, 0
    first, last = int(changed[0]), int(changed[-1]) + 1
    # Slow pairs may round to what they were; halves of the head are turned as a whole.
    return (0 if first < 2 else first), last


def _paired(x: Tensor) -> Tensor:
    """Halves as features side by side."""
    return torch.stack(x.chunk(2, dim=-1), -1).flatten(-2)


def _pairs(x: Tensor, interleaved: bool) -> Tensor:
    """Features as complex pairs."""
    if interleaved:
        return torch.complex(x[..., 0::2], x[..., 1::2])
    half = x.shape[-1] // 2
    return torch.complex(x[..., :half], x[..., half:])


def _rotate(x: Tensor, rotary: Rotary, interleaved: bool) -> Tensor:
    pairs = _pairs(x, interleaved)
    seq, n_pairs = pairs.shape[-2:]
    rates = rotary.frequencies or _plain(rotary.theta, n_pairs)
    angles = torch.outer(_positions(seq, x), torch.tensor(rates, dtype=torch.float64).to(x.device))
    turn = torch.polar(torch.full_like(angles, rotary.scale), angles)
    turned = pairs * turn.to(pairs.dtype)
    if interleaved:
        return torch.view_as_real(turned).flatten(-2)
    return torch.cat([turned.real, turned.imag], -1)


def _positions(seq: int, like: Tensor) -> Tensor:
    return torch.arange(seq, device=like.device, dtype=torch.float64)


def _plain(theta: float, n_pairs: int) -> tuple[float, ...]:
    return tuple(theta ** (-k / n_pairs) for k in range(n_pairs))


def _candidates(x: Tensor, y: Tensor, interleaved: bool) -> Iterator[Rotary]:
    """What the turns could be: of one base, rounded and not, then at rates of their own."""
    before, after = _pairs(x, interleaved), _pairs(y, interleaved)
    turns = (after * before.conj()).sum(tuple(range(before.ndim - 2)))
    angles = torch.atan2(turns.imag, turns.real).cpu().double()  # (seq, pairs)
    rates = [_rate(angles[:, k].tolist()) for k in range(angles.shape[-1])]
    scale = float(y.square().sum().sqrt() / x.square().sum().sqrt().clamp_min(1e-30))
    scale = 1.0 if abs(scale - 1) < SAME_ANGLE else scale
    n_pairs = len(rates)
    # theta = rate^(-pairs/k): how surely a pair gives it grows with k and with how far it turns
    slow = {k: k * rates[k] for k in range(1, n_pairs) if 0 < rates[k] < 1}
    if slow:
        best = max(slow, key=slow.__getitem__)
        theta = rates[best] ** (-n_pairs / best)
        yield from (Rotary(theta=t, scale=scale) for t in (_rounded(theta), theta))
    yield Rotary(frequencies=tuple(rates), scale=scale)


def _rate(angles: list[float]) -> float:
    """Angle per token: over twice as many tokens each time, whole turns told from the last."""
    far, rate = 1, angles[1]
    while 2 * far < len(angles):
        far *= 2
        remainder = math.remainder(angles[far] - rate * far, math.tau)
        rate += remainder / far
    return rate


def _rounded(theta: float) -> float:
    """Thetas are round numbers; low precision gives them within a few percent."""
    for digits, allowed in (("1", 0.02), ("2", 0.005)):
        rounded = float(f"{theta:.{digits}g}")
        if abs(rounded / theta - 1) < allowed:
            return rounded
    return theta
