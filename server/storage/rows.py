"""The rows of `frames` and `blocks` as typed values: one field a column, in the tables' order."""

from __future__ import annotations

import msgspec


class FrameRow(msgspec.Struct, frozen=True):
    """A stored frame; `values` are those of `wire.Frame`."""

    run_id: str
    rank: int
    seq: int
    step: int
    time: float
    layout: str
    values: bytes


class FrameSlices(msgspec.Struct, frozen=True):
    """The bytes of some series of a stored frame, in the order they were asked for."""

    rank: int
    seq: int
    step: int
    time: float
    slices: tuple[bytes, ...]


class ScalarRow(msgspec.Struct, frozen=True):
    """The scalars of `n` steps that were not sampled, of one rank and layout, ascending in `seq`.

    Attributes:
        first_step, last_step: least and greatest step.
        seqs, steps, times: one number a step, packed as in a segment.
        values: packed as a series of a segment is, (steps, scalars).
    """

    run_id: str
    rank: int
    first_seq: int
    last_seq: int
    first_step: int
    last_step: int
    layout: str
    n: int
    seqs: bytes
    steps: bytes
    times: bytes
    values: bytes


class SegmentRow(msgspec.Struct, frozen=True):
    """A segment without its series: `n` frames of one rank and layout, ascending in `seq`.

    Attributes:
        first_step, last_step: least and greatest step, which need not be the first frame's and
            the last one's.
        seqs, steps, times: one number a frame, packed by `server.storage.codec`.
    """

    run_id: str
    rank: int
    first_seq: int
    last_seq: int
    first_step: int
    last_step: int
    layout: str
    n: int
    seqs: bytes
    steps: bytes
    times: bytes


class CompactionTask(msgspec.Struct, frozen=True):
    """Frames of a rank that may be compacted: those past `packed` and up to `settled`."""

    run_id: str
    rank: int
    packed: int
    settled: int
