"""Runs that went back: a job restarted from a checkpoint records some steps again.

Of one rank, a frame is superseded by every later one (of a higher number) at the same step or an
earlier one: what the job did after its checkpoint, before it died, is not what led to its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from server.database import Row


class Rewind(NamedTuple):
    """From frame `seq` on, the rank records again from `step`; it had been at `last`."""

    seq: int
    step: int
    last: int


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a rank has come: its newest frame, and where it went back on the way.

    Attributes:
        rewinds: ascending in `seq` and in `step`; what a later one covers is left out.
    """

    seq: int
    step: int
    rewinds: tuple[Rewind, ...] = ()


class Numbered(Protocol):
    """A frame, as far as its place in the run goes."""

    @property
    def seq(self) -> int:
        """Its number."""

    @property
    def step(self) -> int:
        """Its step."""


def reached(mark: Row) -> Reached:
    """What a row of `marks` says."""
    return Reached(mark["top_seq"], mark["top_step"], rewinds_of(mark))


def rewinds_of(mark: Row) -> tuple[Rewind, ...]:
    """The rewinds in a row of `marks`."""
    return tuple(Rewind(*one) for one in mark["rewinds"])


def columns(now: Reached) -> dict[str, Any]:
    """The same for a row of `marks`."""
    return {
        "top_seq": now.seq,
        "top_step": now.step,
        "rewinds": [list(one) for one in now.rewinds],
    }


def advance(before: Reached, frames: Iterable[Numbered]) -> Reached:
    """How far the rank is after these frames, ascending; one that fills a gap changes nothing."""
    now = before
    for frame in frames:
        if frame.seq > now.seq:
            went_back = frame.step <= now.step
            rewinds = _added(now, frame) if went_back else now.rewinds
            now = Reached(frame.seq, frame.step, rewinds)
    return now


def _added(now: Reached, frame: Numbered) -> tuple[Rewind, ...]:
    kept = tuple(one for one in now.rewinds if one.step < frame.step)
    covered = now.rewinds[len(kept) :]
    last = max([now.step, *(one.last for one in covered)])
    return (*kept, Rewind(frame.seq, frame.step, last))


def superseded(now: Reached) -> list[list[int]]:
    """Ranges [first step, last step] that were recorded more than once so far, ascending."""
    ranges: list[list[int]] = []
    for one in now.rewinds:
        last = min(one.last, now.step)
        if ranges and one.step <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], last)
        elif one.step <= last:
            ranges.append([one.step, last])
    return ranges


def superseded_by_rank(marks: Sequence[Row]) -> list[list[int]]:
    """The ranges of the lowest rank, which speaks for the run."""
    return superseded(reached(marks[0])) if marks else []
