"""A bias on attention scores by distance: points of its curve, and the table it is from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dslm.spec import Floats, PositionBias

STRAIGHT = 1e-3  # absolute: how far a point dropped from a curve may lie off it


@dataclass(frozen=True, slots=True)
class BiasPart:
    """A bias by distance, and the parameter that holds it.

    Attributes:
        observed: the bias as it was in the pass that it was read from.
        table: name of a parameter, (entries, heads) or the other way round, whose entries the
            bias is at each distance; None where there is none, so that it stays as observed.
        heads_first: whether the parameter is (heads, entries).
        distances: every distance between two tokens that see each other.
        entries: the table's entry at each of them.
    """

    observed: PositionBias
    table: str | None = None
    heads_first: bool = False
    distances: tuple[int, ...] = ()
    entries: tuple[int, ...] = ()

    def today(self, table: Tensor) -> PositionBias:
        """Return the bias that the table's values of now make."""
        values = table.detach().float().cpu().numpy().astype(np.float64)
        values = values if self.heads_first else values.T
        return points_of(np.array(self.distances), values[:, list(self.entries)])


def points_of(distances: Floats, curve: Floats) -> PositionBias:
    """Return the (heads, distances) curves by the points they are straight between."""
    corners = sorted(_corners(distances, curve, 0, len(distances) - 1))
    groups: dict[tuple[float, ...], int] = {}
    for row in curve[:, corners]:
        key = tuple(float(value) for value in row)
        groups[key] = groups.get(key, 0) + 1
    points = tuple(int(d) for d in distances[corners])
    return PositionBias(points, tuple(groups), tuple(groups.values()))


def _corners(x: Floats, y: Floats, first: int, last: int) -> set[int]:
    """Indices, ends included, between which every row of y is a straight line."""
    corners, pending = {first, last}, [(first, last)]
    while pending:
        a, b = pending.pop()
        if b - a < 2:
            continue
        share = (x[a : b + 1] - x[a]) / (x[b] - x[a])
        line = y[:, [a]] + share * (y[:, [b]] - y[:, [a]])
        off = np.abs(y[:, a : b + 1] - line).max(axis=0)
        worst = a + int(off.argmax())
        if off.max() > STRAIGHT:
            corners.add(worst)
            pending += [(a, worst), (worst, b)]
    return corners
