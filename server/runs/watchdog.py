"""Notices runs that have gone silent."""

from __future__ import annotations

import asyncio

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.service import Outcome, report_silence
from server.app_state import AppState
from server.diagnosis.worker import tell
from server.events import publish_runs
from server.runs.repository import RunRepository

EVERY_S = 1.0


async def watch(state: AppState) -> None:
    """One look at the running runs, then a pause."""
    await mark_silent(state)
    await asyncio.sleep(EVERY_S)


async def mark_silent(state: AppState) -> list[str]:
    """Set runs out of contact whose agent has not said a word in time; returns their ids."""
    moment = state.clock() - state.settings.lost_contact_s
    async with state.database.reading() as session:
        silent = [row["id"] for row in await RunRepository(session).silent_since(moment)]
    if not silent:
        return []
    async with state.database.writing() as session:
        rows = await RunRepository(session).get_many(silent)
        # Looked at again under the lock: a frame may have come in between.
        lost = [one for one in rows if one["status"] == "running" and one["last_seen"] < moment]
        outcomes = [await _lose(session, row, state.clock()) for row in lost]
    for outcome in outcomes:
        await tell(state, outcome)
    await publish_runs(state.bus, [row["id"] for row in lost])
    return [row["id"] for row in lost]


async def _lose(session: AsyncSession, row: RowMapping, now: float) -> Outcome:
    await RunRepository(session).change(row["id"], status="lost_contact")
    silent_s = now - row["last_seen"]
    step = row["last_step"] or 0
    return await report_silence(session, run_id=row["id"], step=step, seconds=silent_s, now=now)
