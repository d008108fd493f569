"""What is added to attention scores by position: told from its numbers, and where it is learned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dslm.spec import Floats, PositionBias
from trainer_agent.description.read.position_bias import BiasPart, points_of
from trainer_agent.description.trace.graph import UnrecognisedError
from trainer_agent.description.trace.tracer import Node
from trainer_agent.description.trace.unsharded import is_sharded

ROUGHLY = 0.01  # relative; biases are made in bfloat16 by some
EXACTLY = 1e-5  # relative; what a learned table's own numbers are found by


def bias_part(
    node: Node, bias: Tensor, allowed: Tensor, n_heads: int, model: nn.Module
) -> BiasPart | None:
    """The bias added to scores (batch, heads, seq, seq); None where all keys get the same.

    `allowed` is true at pairs let through. Both may lack batch and heads, or hold them in one.
    Raises UnrecognisedError for a bias that is no function of distance, head by head.
    """
    bias, allowed = (_with_heads(t, n_heads) for t in (bias, allowed))
    bias = torch.where(allowed, bias.float(), 0.0)
    bias = bias.expand(-1, n_heads, -1, -1)
    allowed = allowed.any(1, keepdim=True)
    if not bool((bias.amax(-1) - bias.amin(-1)).gt(0).any()):
        return None
    if bias.shape[-1] != bias.shape[-2] or not bool(
        torch.diagonal(allowed, dim1=-2, dim2=-1).any()
    ):
        raise UnrecognisedError(node, "position bias", "of keys at other positions than queries")
    # a number that all of a query's keys get changes nothing: some add slope * key position
    at_self = torch.diagonal(bias, dim1=-2, dim2=-1).unsqueeze(-1)
    distances, curve = _curve(bias - at_self, allowed)
    if curve is None:
        raise UnrecognisedError(node, "position bias", "not the same at every distance")
    if float(np.ptp(curve)) == 0:
        return None
    observed = points_of(distances, curve)
    _, raw = _curve(bias, allowed)
    learned = None if raw is None else _learned(observed, distances, raw, model)
    return learned or BiasPart(observed)


def _with_heads(scores: Tensor, n_heads: int) -> Tensor:
    """As (batch, heads, queries, keys); three dimensions have batch and heads, or one, first."""
    if scores.ndim == 3 and scores.shape[0] > 1:
        return scores.reshape(-1, n_heads, *scores.shape[1:])
    return scores.reshape((1,) * (4 - scores.ndim) + scores.shape)


def _curve(bias: Tensor, allowed: Tensor) -> tuple[Floats, Floats | None]:
    """(distances seen, (heads, distances) the bias there, or None where it differs)."""
    n = bias.shape[-1]
    at = torch.arange(n, device=bias.device)
    index = at[:, None] - at[None, :] + n - 1
    let = allowed.expand(bias.shape[0], 1, n, n)[:, 0].float()
    counts = torch.zeros(2 * n - 1, device=bias.device)
    sums = torch.zeros(bias.shape[1], 2 * n - 1, device=bias.device)
    for values, weight in zip(bias, let, strict=True):
        counts.index_add_(0, index.flatten(), weight.flatten())
        sums.index_add_(1, index.flatten(), (values * weight).flatten(1))
    curve = sums / counts.clamp_min(1)
    off = torch.stack(
        [((v - curve[:, index]) * w).square().sum() for v, w in zip(bias, let, strict=True)]
    )
    size = (curve.square() * counts).sum()
    counted = (counts > 0).cpu().numpy()
    distances = np.arange(1 - n, n)[counted].astype(np.float64)
    if float(off.sum()) > ROUGHLY**2 * float(size):
        return distances, None
    return distances, curve.double().cpu().numpy()[:, counted]


def _learned(
    observed: PositionBias, distances: Floats, raw: Floats, model: nn.Module
) -> BiasPart | None:
    """The parameter whose entries the bias is, each told apart from the others."""
    for name, parameter in model.named_parameters():
        for heads_first in (False, True):
            table = parameter.detach()
            fits = table.ndim == 2 and table.shape[1 - heads_first] == len(raw)
            if not fits or is_sharded(table):
                continue
            entries = _entries(raw, (table.T if heads_first else table).float().cpu().numpy())
            if entries is not None:
                all_distances = tuple(int(d) for d in distances)
                return BiasPart(observed, name, heads_first, all_distances, entries)
    return None


def _entries(curve: Floats, table: Floats) -> tuple[int, ...] | None:
    """Which entry (entries, heads) of the table is at each distance of (heads, distances)."""
    apart = np.abs(curve.T[:, None, :] - table[None, :, :]).max(axis=2)
    nearest = apart.argmin(axis=1)
    allowed = EXACTLY * np.abs(curve).max()
    used = table[np.unique(nearest)]
    gaps = np.abs(used[:, None] - used[None]).max(axis=2) + np.diag(np.full(len(used), np.inf))
    good = bool((apart.min(axis=1) <= allowed).all()) and float(gaps.min()) > 2 * allowed
    return tuple(int(i) for i in nearest) if good else None
