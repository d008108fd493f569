"""What the method says of recorded runs: errors one block ahead, bands, and the blocks it names."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.innovations.recording import FaultRun, Recorded, Series
from dslm.ahead import QUANTITIES, WINDOW, Ahead, departures, predict_ahead
from dslm.ahead.departures import Departure

Floats = NDArray[np.float64]
ELSEWHERE = -1  # no block of the stack that has the fault


@dataclass(frozen=True, slots=True)
class Errors:
    """How far blocks are from one block ahead over some samples.

    Attributes:
        median, worst: over samples, at the median and at the worst block; relative for variances,
            absolute for correlations.
    """

    median: float
    worst: float


def stacks_of(series: Series) -> list[str]:
    """Names of the recorded stacks."""
    end = "/stream/variance"
    return [key.removesuffix(end) for key in series if key.endswith(end)]


def ahead_of(
    series: Series, curves: Series, stack: str, rows: NDArray[np.int64]
) -> dict[str, Ahead]:
    """Every quantity of a stack at these rows."""
    ahead = {}
    for name, quantity in QUANTITIES.items():
        key = f"{stack}/{quantity.site}/{quantity.quantity}"
        if key in series:
            theory = curves.get(key)
            ahead[name] = predict_ahead(
                name,
                series[key].astype(np.float64),
                rows,
                theory=None if theory is None else theory.astype(np.float64),
            )
    return ahead


def errors(ahead: Ahead, name: str) -> Errors:
    """Over the rows of `ahead`: each block's median error."""
    misses = np.abs(ahead.innovation)
    if QUANTITIES[name].logarithmic:
        misses = np.abs(2**ahead.innovation - 1)
    of_blocks = np.nanmedian(misses, axis=0)
    return Errors(float(np.median(of_blocks)), float(of_blocks.max()))


def coverage(ahead: Ahead) -> tuple[float, float]:
    """Share of (block, step) pairs inside their band, and the median of upper over lower edge."""
    expected = np.isfinite(ahead.innovation_high)
    inside = 1 - ahead.outside[expected].mean()
    return float(inside), float(2 ** np.median(2 * ahead.innovation_high[expected]))


def episodes(recorded: Recorded, *, every: int = 1) -> list[tuple[str, Departure]]:
    """The departures of a whole run of every `every`-th step, by stack."""
    series = {key: values[::every] for key, values in recorded.series.items()}
    n = len(next(iter(series.values())))
    return [
        (stack, departure)
        for stack in stacks_of(series)
        for departure in departures(ahead_of(series, recorded.curves, stack, np.arange(n)))
    ]


def named_after(recorded: Recorded, run: FaultRun) -> Departure | None:
    """The first departure in the samples behind a fault."""
    joined = {
        key: np.concatenate([values[-2 * WINDOW :], run.after[key]])
        for key, values in recorded.series.items()
    }
    n = len(next(iter(joined.values())))
    rows = np.arange(n - len(next(iter(run.after.values()))), n)
    first: Departure | None = None
    for stack in stacks_of(joined):
        ahead = ahead_of(joined, recorded.curves if n < WINDOW else {}, stack, rows)
        for departure in departures(ahead)[:1]:
            if first is None or departure.row < first.row:
                elsewhere = replace(departure, block=ELSEWHERE)
                first = departure if stack == run.stack else elsewhere
    return first


def samples_times_layers(recorded: Recorded) -> int:
    """How many pairs of a sampled step and a block a run has."""
    return sum(
        values.shape[0] * (values.shape[1] - 1)
        for key, values in recorded.series.items()
        if key.endswith("/stream/variance")
    )
