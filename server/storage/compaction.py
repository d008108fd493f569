"""Compaction: turns finished stretches of frames into segments, in the background."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from sqlalchemy import Select, and_, case, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.app_state import AppState
from server.database import fetch_all
from server.runs.repository import RunRepository
from server.storage.rows import CompactionTask, FrameRow, SegmentRow
from server.storage.segments import leading_layout, segment_row, series_rows
from server.tables import blocks, chunks, frames, marks, runs

EVERY_S = 5.0
TASKS_A_TURN = 32
ABANDONED_S = 3600.0

# Durable, so that a resent frame is recognised by the ack watermark alone; and judged, since the
# rules read frames.
_settled = case((marks.c.diagnosed < marks.c.durable, marks.c.diagnosed), else_=marks.c.durable)


async def compact(state: AppState) -> None:
    """One turn: compact until nothing is finished, then a pause."""
    while await compact_some(state):
        await asyncio.sleep(0)  # between segments, requests are served
    await asyncio.sleep(EVERY_S)


async def compact_some(state: AppState) -> int:
    """Write at most one segment for each of some ranks; returns how many frames moved."""
    async with state.database.reading() as session:
        tasks = await fetch_all(session, tasks_query(state), CompactionTask)
    return sum([await _compact(state, task) for task in tasks])


def tasks_query(state: AppState) -> Select[Any]:
    """Ranks with frames for one segment beside one to spare, or whose run has ended.

    The index `marks_unpacked` holds the ranks with frames that are not packed, and no others: a
    run that nobody ended is packed after an hour of silence, or it would stay there for ever.
    """
    spare = 2 * state.settings.segment_frames
    quiet = state.clock() - state.settings.lost_contact_s
    # Asked for each of these ranks: a join would be planned over every run there ever was.
    end = select(runs.c.ended).where(runs.c.id == marks.c.run_id).scalar_subquery()
    over = or_(end.is_not(None), marks.c.last_seen < state.clock() - ABANDONED_S)
    ended = and_(over, marks.c.last_seen < quiet, marks.c.packed < _settled)
    return (
        select(marks.c.run_id, marks.c.rank, marks.c.packed, _settled)
        .where(marks.c.packed < marks.c.durable, or_(_settled - marks.c.packed >= spare, ended))
        .limit(TASKS_A_TURN)
    )


async def _compact(state: AppState, task: CompactionTask) -> int:
    async with state.database.reading() as session:
        rows = leading_layout(await _frames(session, task, state.settings.segment_frames))
        hashes = {row.layout for row in rows}
        layouts = await RunRepository(session).layouts_of(task.run_id, hashes)
    if not rows:
        # Every frame up to `settled` was given up by the agent: there is nothing to move.
        async with state.database.writing() as session:
            await _advance(session, task, task.settled)
        return 0
    # Packing holds the loop for milliseconds: it runs in a thread.
    segment = await asyncio.to_thread(segment_row, rows)
    series = await asyncio.to_thread(series_rows, rows, layouts[segment.layout])
    # One transaction: a process that dies on the way leaves the frames as they were.
    async with state.database.writing() as session:
        if not await _advance(session, task, segment.last_seq):
            return 0
        await session.execute(blocks.insert().values(**msgspec.structs.asdict(segment)))
        await session.execute(chunks.insert(), series)
        await _remove_frames(session, segment)
    state.metrics.frames_packed.inc(segment.n)
    return segment.n


async def _frames(session: AsyncSession, task: CompactionTask, limit: int) -> list[FrameRow]:
    query = (
        select(frames)
        .where(
            frames.c.run_id == task.run_id,
            frames.c.rank == task.rank,
            frames.c.seq > task.packed,
            frames.c.seq <= task.settled,
        )
        .order_by(frames.c.seq)
        .limit(limit)
    )
    return await fetch_all(session, query, FrameRow)


async def _advance(session: AsyncSession, task: CompactionTask, seq: int) -> bool:
    """Note that frames up to `seq` are packed; False if another process has compacted them."""
    change = (
        update(marks)
        .where(
            marks.c.run_id == task.run_id,
            marks.c.rank == task.rank,
            marks.c.packed == task.packed,
        )
        .values(packed=seq)
    )
    moved: Any = await session.execute(change)
    return bool(moved.rowcount == 1)


async def _remove_frames(session: AsyncSession, segment: SegmentRow) -> None:
    await session.execute(
        delete(frames).where(
            frames.c.run_id == segment.run_id,
            frames.c.rank == segment.rank,
            frames.c.seq.between(segment.first_seq, segment.last_seq),
        )
    )
