"""The packer: turns finished stretches of frames into blocks, in the background."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import and_, case, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.app_state import AppState
from server.database import Row
from server.runs.repository import RunRepository
from server.storage.segments import leading_layout, segment_row, series_rows
from server.tables import blocks, chunks, frames, marks, runs

EVERY_S = 5.0
RUNS_A_TURN = 32

# Frames may be packed once they are durable (a resend is then known by the mark alone) and judged.
_settled = case((marks.c.diagnosed < marks.c.durable, marks.c.diagnosed), else_=marks.c.durable)


async def compact(state: AppState) -> None:
    """One turn: pack until nothing is finished, then a pause."""
    while await compact_some(state):
        await asyncio.sleep(0)  # a long backlog leaves room for requests
    await asyncio.sleep(EVERY_S)


async def compact_some(state: AppState) -> int:
    """Pack at most one block of each of some runs; returns how many frames moved."""
    async with state.database.reading() as session:
        finished = await _finished(session, state)
    return sum([await _compact_segment(state, mark) for mark in finished])


async def _finished(session: AsyncSession, state: AppState) -> list[Row]:
    """Ranks that hold a whole block beside one to spare, or whose run has ended."""
    spare = 2 * state.settings.block_frames
    quiet = state.clock() - state.settings.lost_contact_s
    over = and_(runs.c.ended.is_not(None), marks.c.last_seen < quiet, marks.c.packed < _settled)
    query = (
        select(marks, _settled.label("settled"))
        .join(runs, runs.c.id == marks.c.run_id)
        .where(or_(_settled - marks.c.packed >= spare, over))
        .limit(RUNS_A_TURN)
    )
    return list((await session.execute(query)).mappings())


async def _compact_segment(state: AppState, mark: Row) -> int:
    async with state.database.reading() as session:
        rows = leading_layout(await _frames(session, mark, state.settings.block_frames))
        layouts = await RunRepository(session).layouts_of(mark["run_id"])
    if rows:
        block = await asyncio.to_thread(segment_row, rows)
        packed = await asyncio.to_thread(series_rows, rows, layouts[rows[0]["layout"]])
    # One transaction: a process that dies on the way leaves the frames as they were.
    async with state.database.writing() as session:
        reached = rows[-1]["seq"] if rows else mark["settled"]
        if not await _advance(session, mark, reached) or not rows:
            return 0
        await session.execute(blocks.insert().values(**block))
        await session.execute(chunks.insert(), packed)
        await _remove(session, block)
    state.metrics.frames_packed.inc(len(rows))
    return len(rows)


async def _frames(session: AsyncSession, mark: Row, limit: int) -> list[Row]:
    query = (
        select(frames)
        .where(
            frames.c.run_id == mark["run_id"],
            frames.c.rank == mark["rank"],
            frames.c.seq > mark["packed"],
            frames.c.seq <= mark["settled"],
        )
        .order_by(frames.c.seq)
        .limit(limit)
    )
    return list((await session.execute(query)).mappings())


async def _advance(session: AsyncSession, mark: Row, reached: int) -> bool:
    """Move the packed mark; False if another process has moved it since it was read."""
    change = (
        update(marks)
        .where(
            marks.c.run_id == mark["run_id"],
            marks.c.rank == mark["rank"],
            marks.c.packed == mark["packed"],
        )
        .values(packed=reached)
    )
    moved: Any = await session.execute(change)
    return bool(moved.rowcount == 1)


async def _remove(session: AsyncSession, block: dict[str, Any]) -> None:
    await session.execute(
        delete(frames).where(
            frames.c.run_id == block["run_id"],
            frames.c.rank == block["rank"],
            frames.c.seq.between(block["first_seq"], block["last_seq"]),
        )
    )
