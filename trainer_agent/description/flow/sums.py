"""Sums over one tensor, taken on its device, and what they become on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dslm.flows import BlockFlow, Site
from trainer_agent.description.flow.sites import BACKWARD, FORWARD, BlockSites
from trainer_agent.description.read.parts import Architecture
from trainer_agent.description.trace.graph import Run

Rows = NDArray[np.float64]
Sums = Tensor | Rows
Key = tuple[str, str, str]  # block, direction, site
WIDTH = 4
NOT_FINITE = "it was not finite"
NOT_SEEN = "no forward pass of the step described showed it"
NO_GRADIENT = "its gradient did not come by in the step described"


def site_sums(x: Tensor, mask: Tensor | None = None, runs: tuple[Run, ...] = ()) -> Sums:
    """(4,): values, their squares' sum, their sum, and values times the shared square.

    `x` is (batch, seq, features) or (tokens, features); `mask` (batch, seq) or (tokens,), true at
    real tokens; `runs` are the features to take. On the host of a plain tensor in memory, float32
    on its device of another.
    """
    x = x.detach()
    if mask is None and len(runs) < 2 and x.dtype == torch.float32 and x.device.type == "cpu":
        return _on_host(x, *runs)
    return _on_device(x, mask, runs)


@torch.no_grad()
def _on_device(x: Tensor, mask: Tensor | None, runs: tuple[Run, ...]) -> Tensor:
    tokens = torch.full((), x.numel() / max(x.shape[-1], 1), device=x.device)
    if mask is not None:
        x = torch.where(mask.unsqueeze(-1), x, 0.0)
        tokens = mask.sum(dtype=torch.float32)
    pieces = [x[..., a:b] for a, b in runs] or [x]
    zero = torch.zeros((), device=x.device)
    squares, values, shared, width = zero, zero, zero, 0
    for piece in pieces:
        flat = piece.flatten(0, -2)
        features = flat.sum(0, dtype=torch.float32)
        squares = squares + torch.linalg.vector_norm(flat, dtype=torch.float32).square()
        values = values + features.sum()
        shared = shared + features.square().sum()
        width += flat.shape[-1]
    return torch.stack([tokens * width, squares, values, shared / tokens.clamp_min(1)])


def _on_host(x: Tensor, run: Run | None = None) -> Rows:
    # Each torch call costs more than its numbers do.
    table = x.reshape(-1, x.shape[-1])
    if run is None:
        flat = x.reshape(-1)
        squares = flat.dot(flat).item()
    else:
        table = table[:, run[0] : run[1]]
        squares = table.norm().item() ** 2
    features = table.sum(0)
    shared = features.dot(features).item() / max(len(table), 1)
    return np.array((table.numel(), squares, features.sum().item(), shared))


@torch.no_grad()
def averaged(v: Tensor, mask: Tensor | None, causal: bool, window: int | None) -> Tensor:
    """Values (batch, seq, features), averaged evenly over the tokens that each token sees."""
    v = v.detach().float()
    if mask is None:
        weight = torch.ones((1, v.shape[1], 1), device=v.device)
    else:
        weight = mask.float().unsqueeze(-1)
        v = v * weight
    if not causal:
        return (v.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)).expand_as(v)
    total, count = v.cumsum(1), weight.cumsum(1)
    if window is not None and window < v.shape[1]:
        total = total - torch.nn.functional.pad(total, (0, 0, window, 0))[:, : v.shape[1]]
        count = count - torch.nn.functional.pad(count, (0, 0, window, 0))[:, : v.shape[1]]
    return total.div_(count.clamp_min_(1))


class FlowSums:
    """The sums of a step, block by block, in an order that all processes share."""

    def __init__(self, sites: Mapping[str, BlockSites], rows: Rows) -> None:
        """Hold rows (blocks x sites, 4), as `read` makes them."""
        self._sites, self._rows = sites, rows

    @classmethod
    def read(cls, sites: Mapping[str, BlockSites], sums: Mapping[Key, Sums]) -> FlowSums:
        """Copy to the host what is not there: waits for the device once."""
        away = {key: row for key, row in sums.items() if isinstance(row, Tensor)}
        values: dict[Key, Any] = dict(sums)
        if away:
            device = next(iter(away.values())).device
            host = torch.stack([row.to(device) for row in away.values()]).tolist()
            values |= zip(away, host, strict=True)
        rows = np.array([values.get(key, (0.0,) * WIDTH) for key in _keys(sites)], np.float64)
        return cls(sites, rows.reshape(-1, WIDTH))

    @classmethod
    def blank(cls, architecture: Architecture) -> FlowSums:
        """Sums of nothing, of as many rows as every process of the job has."""
        parts = (
            (p, part)
            for s in architecture.stacks
            for p, part in zip(s.blocks, s.parts, strict=True)
        )
        nothing = BlockSites((), (), {}, {})
        sites = {path: nothing for path, _ in parts}
        return cls(sites, np.zeros((len(_keys(sites)), WIDTH)))

    def added_up(self, add: Callable[[Rows], Rows]) -> FlowSums:
        """The sums over all processes."""
        return FlowSums(self._sites, add(self._rows))

    def flows(self, blocks: Sequence[str]) -> tuple[BlockFlow | None, ...]:
        """The flow of each block, by its path; None where nothing was seen of it."""
        rows = dict(zip(_keys(self._sites), self._rows, strict=True))
        return tuple(_flow(path, self._sites.get(path), rows) for path in blocks)


def _keys(sites: Mapping[str, BlockSites]) -> list[Key]:
    return [
        (path, direction, site)
        for path in sites
        for direction, names in (("forward", FORWARD), ("backward", BACKWARD))
        for site in names
    ]


def _site(row: Rows) -> Site:
    count, square, total, shared = row.tolist()
    return Site(square / count, total / count, shared / count)


def _flow(path: str, sites: BlockSites | None, rows: Mapping[Key, Rows]) -> BlockFlow | None:
    if sites is None:
        return None
    missing = dict(sites.missing)
    forward, backward = {}, {}
    for site in FORWARD:
        row = rows[path, "forward", site]
        if row[0] > 0 and np.isfinite(row).all():
            forward[site] = _site(row)
        elif row[0] > 0:
            missing[site] = NOT_FINITE
    for site in BACKWARD:
        row = rows[path, "backward", site]
        if row[0] > 0 and np.isfinite(row).all():
            backward[site] = _site(row)
    if not forward and not backward:
        return None
    missing |= {p.site: NOT_SEEN for p in sites.places if p.site not in {**forward, **missing}}
    if "in" not in backward or "out" not in backward:
        missing["gradient"] = NO_GRADIENT
    return BlockFlow(forward, backward, missing)
