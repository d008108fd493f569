"""Blocks that are not understood, carried by what was measured on their two sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np

from dslm.kernels.grid import mean_diagonal, prepare
from dslm.prediction import Curve, StackPrediction
from dslm.spec import Carried, Floats, Kernel, Missing, Stack

WHAT = "measured block"
WHY = (
    "its own effect is not predicted: the curves go on from the stream and the gradient that were "
    "measured on its two sides in the step described"
)

Run = tuple[int, int]


def is_carried(stack: Stack) -> bool:
    """Whether any block of the stack is carried."""
    return any(stack.carried)


def runs_of(stack: Stack) -> list[Run]:
    """Return the runs of blocks between those that are carried, each as (first, last + 1).

    A run holds no block where carried ones follow each other.
    """
    starts = [index for index, block in enumerate(stack.carried) if block is not None]
    edges = [-1, *starts, len(stack.blocks)]
    return [(a + 1, b) for a, b in pairwise(edges)]


def behind(x: Kernel, carried: Carried) -> Kernel:
    r"""Return the kernel of the stream behind a carried block, from that before it.

    .. math:: K_{ii} \to g K_{ii}, \quad \rho_{ij} \to \rho_{ij} + \delta (1 - \rho_{ij}), \quad
        \delta = \frac{c' - c}{1 - c}

    g brings the mean of :math:`K_{ii}` to what was measured. c and c' are the shares of the
    stream's energy that all tokens have in common, before and behind; where it falls,
    :math:`\rho_{ij} \to \rho_{ij}\, c'/c`.

    Source: derived here; a measurement, spread over positions as the stream before it was.
    """
    energy = mean_diagonal(x)
    gain = carried.mean_square / energy if energy > 0 else 1.0
    diagonal = x.diagonal * gain if energy > 0 else np.full_like(x.diagonal, carried.mean_square)
    size = np.sqrt(np.outer(x.diagonal, x.diagonal))
    rho = np.divide(x.off_diagonal, size, out=np.zeros_like(size), where=size > 0)
    before, after = carried.common_before, carried.common_behind
    if after >= before:
        rho = rho + (after - before) / max(1 - before, 1e-12) * (1 - rho)
    else:
        rho = rho * after / max(before, 1e-12)
    off_diagonal = np.clip(rho, -1, 1) * np.sqrt(np.outer(diagonal, diagonal))
    return prepare(Kernel(diagonal, off_diagonal, x.cell_sizes))


def joined(
    parts: Sequence[tuple[Run, StackPrediction]], scales: Sequence[float], n_blocks: int
) -> StackPrediction:
    """Return one prediction of all runs; what no run covers is NaN.

    `scales` are each run's gradient variance at its top, relative to that of the last run.
    """
    scores, attention, feed_forward = (np.full(n_blocks, np.nan) for _ in range(3))
    forward, backward = _blank(n_blocks + 1), _blank(n_blocks + 1)
    for ((start, stop), part), scale in zip(parts, scales, strict=True):
        scores[start:stop] = part.score_variance
        attention[start:stop] = part.attention_variance
        feed_forward[start:stop] = part.feed_forward_variance
        _write(forward, part.forward, slice(start, stop + 1), 1.0)
        _write(backward, part.backward, slice(start, stop + 1), scale)
    return replace(
        parts[-1][1],
        forward=forward,
        backward=backward,
        score_variance=scores,
        attention_variance=attention,
        feed_forward_variance=feed_forward,
    )


def _blank(n: int) -> Curve:
    return Curve(*(np.full(n, np.nan) for _ in fields(Curve)))


def _write(into: Curve, curve: Curve, where: slice, factor: float) -> None:
    for field in fields(Curve):
        values: Floats = getattr(into, field.name)
        scale = factor if field.name.startswith("variance") else 1.0
        values[where] = scale * getattr(curve, field.name)


def missing_of(name: str, stack: Stack) -> Iterator[Missing]:
    """Yield an entry for each carried block."""
    for index, block in enumerate(stack.carried):
        if block is not None:
            yield Missing(f"{name}.blocks[{index}]", WHAT, WHY)
