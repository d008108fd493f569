"""Read measurements as matrices over steps, from frames and blocks alike.

Where several frames tell of one step, the lowest rank speaks; a series that only other ranks
measure is taken from them. Frames that a resumed run has superseded are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import Row
from server.runs.rewinds import Rewind
from server.storage.codec import unpack, unpack_series
from server.storage.downsample import Steps
from server.storage.repository import MeasurementRepository
from wire import Layout

ANY_STEP = 2**53
STEPS_A_QUERY = 2000


@dataclass(frozen=True, slots=True)
class Measured:
    """Values of some series at some steps.

    Attributes:
        steps: int64 (steps,), ascending.
        times: float64 (steps,), seconds since the epoch; NaN where no frame was found.
        series: by key, float32 (steps, n); NaN where a step has none.
    """

    steps: Steps
    times: NDArray[np.float64]
    series: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one rank that came from one place."""

    rank: int
    seq: int
    steps: Steps
    times: NDArray[np.float64]
    series: Mapping[str, NDArray[np.float32]]


async def sampled_steps(
    session: AsyncSession, run_id: str, *, after: int = -1, last: int = ANY_STEP
) -> Steps:
    """The steps past `after` and up to `last`, ascending, each once."""
    repository = MeasurementRepository(session, run_id)
    found = [np.array(await repository.frame_steps(after, last), dtype=np.int64)]
    for block in await repository.blocks_in(after + 1, last):
        steps = unpack(block["steps"], "<i8")[kept(block, await repository.gone_back())]
        found.append(steps[(steps > after) & (steps <= last)])
    return np.unique(np.concatenate(found))


async def step_at(session: AsyncSession, run_id: str, step: int) -> int | None:
    """The sampled step nearest to `step` from below, or None if there is none."""
    repository = MeasurementRepository(session, run_id)
    newest = await repository.newest_frame_step(step)
    found = [] if newest is None else [newest]
    for block in await repository.newest_blocks(step):
        steps = unpack(block["steps"], "<i8")[kept(block, await repository.gone_back())]
        found += steps[steps <= step].tolist()
    return max(found, default=None)


async def read(
    session: AsyncSession,
    run_id: str,
    layouts: Mapping[str, Layout],
    steps: Steps,
    keys: Sequence[str] | None = None,
) -> Measured:
    """The values of these series (every series when None) at these steps, ascending."""
    wanted = widths(layouts, keys)
    repository = MeasurementRepository(session, run_id)
    pieces: list[_Piece] = []
    if len(steps):
        # Frames before blocks: one that is packed in between is then seen twice, not never.
        pieces += await _from_frames(repository, layouts, steps, wanted, whole=keys is None)
        pieces += await _from_blocks(repository, layouts, steps, wanted)
    return _merged(steps, wanted, pieces)


def kept(block: Row, gone_back: Sequence[tuple[int, Rewind]]) -> NDArray[np.bool_]:
    """Which rows of a block no resumed run has superseded, (frames,)."""
    found = np.ones(block["n"], dtype=np.bool_)
    for rank, back in gone_back:
        if rank == block["rank"] and block["first_seq"] < back.seq:
            seqs, steps = unpack(block["seqs"], "<i8"), unpack(block["steps"], "<i8")
            found &= (seqs >= back.seq) | (steps < back.step)
    return found


def widths(layouts: Mapping[str, Layout], keys: Sequence[str] | None) -> dict[str, int]:
    """The length of each series, as the newest layout that holds it declares it."""
    declared = {one.key: one.n for layout in layouts.values() for one in layout}
    return declared if keys is None else {key: declared[key] for key in keys if key in declared}


async def _from_frames(
    repository: MeasurementRepository,
    layouts: Mapping[str, Layout],
    steps: Steps,
    wanted: Mapping[str, int],
    *,
    whole: bool,
) -> list[_Piece]:
    pieces: list[_Piece] = []
    for layout in layouts.values():
        keys = [key for key in wanted if key in layout.slices]
        for start in range(0, len(steps), STEPS_A_QUERY):
            some = steps[start : start + STEPS_A_QUERY].tolist()
            if whole:
                pieces += _stacked(await repository.whole_frames(layout, some), [None], layout)
            elif keys:
                rows = await repository.frame_parts(layout, keys, some)
                pieces += _stacked(rows, keys, layout)
    return pieces


def _stacked(rows: Sequence[Any], keys: Sequence[str | None], layout: Layout) -> list[_Piece]:
    """One piece for each rank, its frames in the order of their numbers."""
    ordered = sorted(rows, key=lambda row: (row[0], row[1]))
    return [
        _piece(rank, list(of_rank), keys, layout)
        for rank, of_rank in groupby(ordered, key=lambda row: row[0])
    ]


def _piece(rank: int, rows: list[Any], keys: Sequence[str | None], layout: Layout) -> _Piece:
    columns = {
        key: np.frombuffer(b"".join(row[5 + at] for row in rows), "<f4").reshape(len(rows), -1)
        for at, key in enumerate(keys)
    }
    whole = columns.pop(None, None)  # the frames' whole vectors, to be cut
    if whole is not None:
        columns |= {key: whole[:, where] for key, where in layout.slices.items()}
    return _Piece(
        rank=rank,
        seq=rows[0][1],
        steps=np.array([row[2] for row in rows], dtype=np.int64),
        times=np.array([row[3] for row in rows]),
        series={key: values for key, values in columns.items() if key is not None},
    )


async def _from_blocks(
    repository: MeasurementRepository,
    layouts: Mapping[str, Layout],
    steps: Steps,
    wanted: Mapping[str, int],
) -> list[_Piece]:
    found = await repository.blocks_in(int(steps[0]), int(steps[-1]))
    used = [block for block in found if np.isin(unpack(block["steps"], "<i8"), steps).any()]
    data = await repository.chunks_of(used, list(wanted))
    pieces = []
    for block in used:
        rows = kept(block, await repository.gone_back())
        series = _series_of(block, layouts[block["layout"]], wanted, data)
        pieces.append(
            _Piece(
                rank=block["rank"],
                seq=block["first_seq"],
                steps=unpack(block["steps"], "<i8")[rows],
                times=unpack(block["times"], "<f8")[rows],
                series={key: values[rows] for key, values in series},
            )
        )
    return pieces


def _series_of(
    block: Row,
    layout: Layout,
    wanted: Mapping[str, int],
    data: Mapping[tuple[int, int, str], bytes],
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for key in wanted:
        if key in layout.slices:
            packed = data[block["rank"], block["first_seq"], key]
            yield key, unpack_series(packed, block["n"])


def _merged(steps: Steps, wanted: Mapping[str, int], pieces: list[_Piece]) -> Measured:
    times = np.full(len(steps), np.nan)
    series = {key: np.full((len(steps), n), np.nan, np.float32) for key, n in wanted.items()}
    # What is written last stays: the lowest rank, and of one rank its newest frame. NumPy writes
    # in order, so that this holds inside a piece, too.
    for piece in sorted(pieces, key=lambda one: (-one.rank, one.seq)):
        at = np.searchsorted(steps, piece.steps)
        held = (at < len(steps)) & (steps[np.minimum(at, len(steps) - 1)] == piece.steps)
        times[at[held]] = piece.times[held]
        for key, values in piece.series.items():
            if key in series and values.shape[1] == wanted[key]:
                series[key][at[held]] = values[held]
    return Measured(steps=steps, times=times, series=series)
