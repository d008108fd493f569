"""Read measurements as matrices over steps, from frames, segments and scalars alike.

Where several frames hold one step, the lowest rank's counts; a series that only other ranks
measure is taken from them. Frames that a resumed run has superseded are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.rewinds import Rewind
from server.storage.codec import unpack_series
from server.storage.downsample import Steps
from server.storage.repository import MeasurementRepository
from server.storage.rows import FrameSlices, SegmentRow
from server.storage.segments import seqs_of, steps_of, times_of
from wire import ABSENT, AGE, Layout

ANY_STEP = 2**53
SEGMENTS_A_QUERY = 8
STEPS_A_QUERY = 2000  # each is a parameter, of which databases take so many

Series = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Values of some series at some steps.

    Attributes:
        steps: int64 (steps,), ascending.
        times: float64 (steps,), seconds since the epoch; NaN where there is no frame.
        series: by key, float32 (steps, n); `wire.ABSENT` where a step has none.
    """

    steps: Steps
    times: NDArray[np.float64]
    series: Series


@dataclass(frozen=True, slots=True)
class _Piece:
    """Frames of one rank and layout that lie side by side; `seq` is the first one's."""

    rank: int
    seq: int
    steps: Steps
    times: NDArray[np.float64]
    series: Series


async def sampled_steps(
    session: AsyncSession, run_id: str, *, after: int = -1, last: int = ANY_STEP
) -> Steps:
    """The steps past `after` and up to `last`, ascending, each once."""
    repository = MeasurementRepository(session, run_id)
    parts = [np.array(await repository.frame_steps(after, last), dtype=np.int64)]
    for segment in await repository.segments_in(after + 1, last):
        steps = steps_of(segment)[current_frames(segment, await repository.rewinds())]
        parts.append(steps[(steps > after) & (steps <= last)])
    return np.unique(np.concatenate(parts))


async def recorded_steps(
    session: AsyncSession, run_id: str, *, after: int = -1, last: int = ANY_STEP
) -> Steps:
    """The steps of this range that have a loss or other scalars, be they sampled or not."""
    sampled = await sampled_steps(session, run_id, after=after, last=last)
    between = await MeasurementRepository(session, run_id).scalar_steps(after + 1, last)
    # Sorted, not hashed as `np.unique` does: these are long, and nearly in order.
    steps = np.sort(np.concatenate([sampled, *between]), kind="stable")
    return steps[np.diff(steps, prepend=-1) > 0]


async def steps_up_to(session: AsyncSession, run_id: str, last: int, count: int) -> Steps:
    """The `count` sampled steps that end with the last one up to `last`, ascending."""
    repository = MeasurementRepository(session, run_id)
    parts = [np.array(await repository.newest_frame_steps(last, count), dtype=np.int64)]
    segments = 0
    # Segments may be short, or superseded in part: ask for more of them until there are enough.
    while True:
        newest = await repository.newest_segments(last, segments + SEGMENTS_A_QUERY)
        for segment in newest[segments:]:
            steps = steps_of(segment)[current_frames(segment, await repository.rewinds())]
            parts.append(steps[steps <= last])
        enough = len(np.unique(np.concatenate(parts))) >= count
        if enough or len(newest) < segments + SEGMENTS_A_QUERY:
            return np.unique(np.concatenate(parts))[-count:]
        segments = len(newest)


async def step_at(session: AsyncSession, run_id: str, step: int) -> int | None:
    """The sampled step nearest to `step` from below, or None if there is none."""
    repository = MeasurementRepository(session, run_id)
    newest = await repository.newest_frame_step(step)
    candidates = [] if newest is None else [newest]
    for segment in await repository.newest_segments(step):
        steps = steps_of(segment)[current_frames(segment, await repository.rewinds())]
        candidates += steps[steps <= step].tolist()
    return max(candidates, default=None)


async def read(
    session: AsyncSession,
    run_id: str,
    layouts: Mapping[str, Layout],
    steps: Steps,
    keys: Sequence[str] | None = None,
) -> Measured:
    """The values of these series (every series when None) at these steps, ascending."""
    lengths = widths(layouts, keys)
    repository = MeasurementRepository(session, run_id)
    pieces: list[_Piece] = []
    if len(steps):
        # Frames before segments: a frame that is compacted in between is read twice, not never.
        if keys is None:
            pieces += await _complete_frames(repository, layouts, steps)
        else:
            pieces += await _series_of_frames(repository, layouts, steps, lengths)
        pieces += await _series_of_segments(repository, layouts, steps, lengths)
        pieces += await _scalars(repository, layouts, steps, lengths)
    return _merged(steps, lengths, pieces)


def current_frames(segment: SegmentRow, rewinds: Sequence[tuple[int, Rewind]]) -> NDArray[np.bool_]:
    """Which frames of a segment no resumed run has superseded, (frames,)."""
    current = np.ones(segment.n, dtype=np.bool_)
    for rank, rewind in rewinds:
        if rank == segment.rank and segment.first_seq < rewind.seq:
            current &= (seqs_of(segment) >= rewind.seq) | (steps_of(segment) < rewind.step)
    return current


def widths(layouts: Mapping[str, Layout], keys: Sequence[str] | None) -> dict[str, int]:
    """The length of each series, as the newest layout that holds it declares it."""
    declared = {series.key: series.n for layout in layouts.values() for series in layout}
    declared.pop(AGE.key, None)
    return declared if keys is None else {key: declared[key] for key in keys if key in declared}


def at_every_step(layouts: Mapping[str, Layout], key: str) -> bool:
    """Whether a series is recorded at steps that are not sampled, too."""
    return any(layout.packs_steps and key in layout.slices for layout in layouts.values())


async def _scalars(
    repository: MeasurementRepository,
    layouts: Mapping[str, Layout],
    steps: Steps,
    lengths: Mapping[str, int],
) -> list[_Piece]:
    """The scalars of steps that were not sampled, where a series is asked for that has them."""
    if not any(at_every_step(layouts, key) for key in lengths):
        return []
    return [
        _Piece(
            rank=row.rank,
            seq=int(row.scalars.seqs[0]),
            steps=row.scalars.steps,
            times=row.scalars.times,
            series=row.scalars.series(layouts[row.scalars.layout]),
        )
        for row in await repository.scalars_in(int(steps[0]), int(steps[-1]))
        if len(row.scalars)
    ]


async def _complete_frames(
    repository: MeasurementRepository, layouts: Mapping[str, Layout], steps: Steps
) -> list[_Piece]:
    """Every series of the frames: one vector is read, and cut here."""
    pieces: list[_Piece] = []
    for layout in _of_samples(layouts):
        for query_steps in _queries(steps):
            frames = await repository.frames_at(layout, query_steps)
            for rank_frames in _by_rank(frames):
                vectors = _matrix(rank_frames, 0)
                series = {key: vectors[:, columns] for key, columns in layout.slices.items()}
                pieces.append(_piece(rank_frames, series))
    return pieces


async def _series_of_frames(
    repository: MeasurementRepository,
    layouts: Mapping[str, Layout],
    steps: Steps,
    lengths: Mapping[str, int],
) -> list[_Piece]:
    pieces: list[_Piece] = []
    for layout in _of_samples(layouts):
        keys = [key for key in lengths if key in layout.slices]
        for query_steps in _queries(steps) if keys else ():
            frames = await repository.series_at(layout, keys, query_steps)
            for rank_frames in _by_rank(frames):
                series = {key: _matrix(rank_frames, index) for index, key in enumerate(keys)}
                pieces.append(_piece(rank_frames, series))
    return pieces


def _of_samples(layouts: Mapping[str, Layout]) -> list[Layout]:
    return [layout for layout in layouts.values() if not layout.packs_steps]


def _queries(steps: Steps) -> Iterator[list[int]]:
    """The steps in lists that one query can name: databases limit its parameters."""
    for start in range(0, len(steps), STEPS_A_QUERY):
        yield steps[start : start + STEPS_A_QUERY].tolist()


def _by_rank(frames: Sequence[FrameSlices]) -> Iterator[list[FrameSlices]]:
    """The frames of each rank, in the order of their numbers."""
    ordered = sorted(frames, key=lambda frame: (frame.rank, frame.seq))
    for _, rank_frames in groupby(ordered, key=lambda frame: frame.rank):
        yield list(rank_frames)


def _matrix(frames: Sequence[FrameSlices], index: int) -> NDArray[np.float32]:
    """The slice of this index of every frame, (frames, n)."""
    data = b"".join(frame.slices[index] for frame in frames)
    return np.frombuffer(data, "<f4").reshape(len(frames), -1)


def _piece(frames: Sequence[FrameSlices], series: Series) -> _Piece:
    return _Piece(
        rank=frames[0].rank,
        seq=frames[0].seq,
        steps=np.array([frame.step for frame in frames], dtype=np.int64),
        times=np.array([frame.time for frame in frames]),
        series=series,
    )


async def _series_of_segments(
    repository: MeasurementRepository,
    layouts: Mapping[str, Layout],
    steps: Steps,
    lengths: Mapping[str, int],
) -> list[_Piece]:
    in_range = await repository.segments_in(int(steps[0]), int(steps[-1]))
    segments = [segment for segment in in_range if np.isin(steps_of(segment), steps).any()]
    packed = await repository.packed_series(segments, list(lengths))
    pieces = []
    for segment in segments:
        rows = current_frames(segment, await repository.rewinds())
        slices = layouts[segment.layout].slices
        series = {
            key: unpack_series(packed[segment.rank, segment.first_seq, key], segment.n)[rows]
            for key in lengths
            if key in slices
        }
        pieces.append(
            _Piece(
                rank=segment.rank,
                seq=segment.first_seq,
                steps=steps_of(segment)[rows],
                times=times_of(segment)[rows],
                series=series,
            )
        )
    return pieces


def _merged(steps: Steps, lengths: Mapping[str, int], pieces: list[_Piece]) -> Measured:
    times = np.full(len(steps), np.nan)
    series = {key: np.full((len(steps), n), ABSENT, np.float32) for key, n in lengths.items()}
    # What is written last stays: the lowest rank, and of one rank its newest frame. NumPy assigns
    # in order, so that this holds inside a piece, too.
    for piece in sorted(pieces, key=lambda piece: (-piece.rank, piece.seq)):
        at = np.searchsorted(steps, piece.steps)
        requested = (at < len(steps)) & (steps[np.minimum(at, len(steps) - 1)] == piece.steps)
        times[at[requested]] = piece.times[requested]
        for key, values in piece.series.items():
            # A later layout may have given the series another length.
            if key in series and values.shape[1] == lengths[key]:
                series[key][at[requested]] = values[requested]
    return Measured(steps=steps, times=times, series=series)
