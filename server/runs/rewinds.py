"""Runs that went back: a job restarted from a checkpoint records some steps again.

A frame is superseded by every later frame of its rank (of a higher `seq`) at the same step or an
earlier one: what the job did between its checkpoint and its death did not lead to its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from server.runs.rows import RankRow


class Span(NamedTuple):
    """The steps of frame `seq`, from its first to its last."""

    seq: int
    first: int
    last: int


class Rewind(NamedTuple):
    """From frame `seq` on, the rank records again from `step`; it had been at `last`."""

    seq: int
    step: int
    last: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rank has come: its newest frame, and where it went back on the way.

    Attributes:
        rewinds: ascending in `seq` and in `step`; those that a later one covers are left out.
    """

    seq: int
    step: int
    rewinds: tuple[Rewind, ...] = ()


def progress_of(rank: RankRow) -> Progress:
    """The progress in a row of `marks`."""
    return Progress(rank.top_seq, rank.top_step, rewinds_of(rank.rewinds))


def rewinds_of(column: Iterable[Sequence[int]]) -> tuple[Rewind, ...]:
    """The rewinds in the column of `marks`."""
    return tuple(Rewind(*rewind) for rewind in column)


def columns(progress: Progress) -> dict[str, Any]:
    """The progress as columns of `marks`."""
    return {
        "top_seq": progress.seq,
        "top_step": progress.step,
        "rewinds": [list(rewind) for rewind in progress.rewinds],
    }


def advance(progress: Progress, frames: Iterable[Span]) -> Progress:
    """The progress after these frames, ascending in `seq`; a frame that fills a gap adds none."""
    for frame in frames:
        if frame.seq > progress.seq:
            went_back = frame.first <= progress.step
            rewinds = _added(progress, frame) if went_back else progress.rewinds
            progress = Progress(frame.seq, frame.last, rewinds)
    return progress


def _added(progress: Progress, frame: Span) -> tuple[Rewind, ...]:
    earlier = tuple(rewind for rewind in progress.rewinds if rewind.step < frame.first)
    covered = progress.rewinds[len(earlier) :]
    last = max([progress.step, *(rewind.last for rewind in covered)])
    return (*earlier, Rewind(frame.seq, frame.first, last))


def superseded(progress: Progress) -> list[list[int]]:
    """Ranges [first step, last step] that were recorded more than once so far, ascending."""
    ranges: list[list[int]] = []
    for rewind in progress.rewinds:
        last = min(rewind.last, progress.step)
        if ranges and rewind.step <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], last)
        elif rewind.step <= last:
            ranges.append([rewind.step, last])
    return ranges


def superseded_of_run(ranks: Sequence[RankRow]) -> list[list[int]]:
    """The ranges of the lowest rank, which speaks for the run."""
    return superseded(progress_of(ranks[0])) if ranks else []
