"""Which block departed first, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dslm.ahead.prediction import FAR, Ahead
from dslm.ahead.slow_mean import WINDOW, Floats

Flags = NDArray[np.bool_]

# What a block does by itself, before what it does to the stream, to the gradient, to its weights:
# the first that departs says most about the cause.
FORWARD = (
    "attention_bits",
    "feed_forward_bits",
    "attention_logits",
    "attention",
    "feed_forward",
    "variance",
    "correlation",
)
BACKWARD = ("gradient",)
OWN = ("weights", "updates", "weight_gradients")
STEADY = (*FORWARD, *BACKWARD, "weights")
QUIET = 12  # samples without a departure after which the next one is a new one
# Samples of which an expectation must be made before it accuses a block by its size. With fewer,
# blocks of healthy runs whose frames are far apart were 30 times their band off.
FEWEST = 12
EARLY = 12.0  # how many times wider than a band of n samples departures lie, times n


@dataclass(frozen=True, slots=True)
class Departure:
    """The first block that left its band, after a while in which none had.

    Attributes:
        row: the row of the sample.
        last_row: of the last sample of the episode in which some block was outside.
        block: the block; None where what the batch put in left its own band, too.
        quantity: by which it departed most; of `QUANTITIES`.
    """

    row: int
    last_row: int
    block: int | None
    quantity: str


def departures(ahead: Mapping[str, Ahead]) -> list[Departure]:
    """The episodes in which some block is outside its band, ascending; each names its first block.

    A fault in block l moves the stream behind it and so, from the same step on, what the blocks
    above it make of it. The lowest block whose forward quantities depart is therefore the first;
    backwards it is the highest. Other data move the input of block 0, and are no block's.

    Args:
        ahead: by quantity, of one stack and for the same rows.
    """
    flags = {name: _flags(name, each) for name, each in ahead.items()}
    if not flags:
        return []
    starts = {
        name: ahead[name].start_outside for name in ("variance", "correlation") if name in ahead
    }
    episodes: list[Departure] = []
    rows = np.flatnonzero(np.any([flag.any(axis=1) for flag in flags.values()], axis=0))
    for row in rows.tolist():
        if episodes and row - episodes[-1].last_row <= QUIET:
            before = episodes[-1]
            episodes[-1] = Departure(before.row, row, before.block, before.quantity)
            continue
        block: int | None
        block, quantity = _first({name: flag[row] for name, flag in flags.items()}, ahead, row)
        inputs = [name for name, start in starts.items() if start[row]]
        if inputs:
            block, quantity = None, inputs[0]
        episodes.append(Departure(row, row, block, quantity))
    return episodes


def bands_beyond(samples: Floats) -> Floats:
    r"""How many times its band a block must be off to depart, by the samples of its expectation.

    .. math:: 1 + c\,(1/n - 1/W)

    A run's first steps are calm, and a usual error that was learned on few of them is too small for
    those in which the learning rate has risen. A complete window of W samples is believed as it is.

    Args:
        samples: n, of each expectation.

    Returns:
        Infinite where n is below `FEWEST`: what is not finite departs none the less.

    Source: measured, ``python -m benchmarks.innovations``.
    """
    with np.errstate(divide="ignore"):
        beyond = 1 + EARLY * np.maximum(1 / samples - 1 / WINDOW, 0.0)
    return np.where(samples < FEWEST, np.inf, beyond)


def _flags(name: str, ahead: Ahead) -> Flags:
    """Where a block is accused, (rows, N)."""
    beyond = bands_beyond(ahead.samples)
    if name not in STEADY:
        # Updates and gradients of weights scatter by more than a band now and then.
        beyond = np.maximum(beyond, FAR)
    innovation = np.abs(ahead.innovation)
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(innovation) & (innovation <= beyond * ahead.innovation_high)
    return ahead.lasting & (ahead.samples > 0) & ~inside


def _first(flags: Mapping[str, Flags], ahead: Mapping[str, Ahead], row: int) -> tuple[int, str]:
    for names, lowest in ((FORWARD, True), (BACKWARD, False)):
        blocks = [flags[name].nonzero()[0] for name in names if name in flags]
        outside = np.concatenate([np.empty(0, np.int64), *blocks])
        if len(outside):
            block = int(outside.min() if lowest else outside.max())
            return block, _most(flags, ahead, row, block, names)
    return max(
        ((int(block), name) for name in OWN if name in flags for block in flags[name].nonzero()[0]),
        key=lambda pair: _times(ahead[pair[1]], row, pair[0]),
    )


def _most(
    flags: Mapping[str, Flags],
    ahead: Mapping[str, Ahead],
    row: int,
    block: int,
    names: tuple[str, ...],
) -> str:
    outside = [name for name in names if name in flags and flags[name][block]]
    return max(outside, key=lambda name: _times(ahead[name], row, block))


def _times(ahead: Ahead, row: int, block: int) -> float:
    """How many times half its band a block is off; infinite where it is not finite."""
    times = abs(ahead.innovation[row, block]) / ahead.innovation_high[row, block]
    return float(times) if np.isfinite(times) else np.inf
