"""Gives running runs whose agent sends nothing any more the status `lost_contact`."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.service import Diagnosis, report_silence
from server.app_state import AppState
from server.diagnosis.announce import announce
from server.events import publish_runs
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository
from server.runs.rows import RunRow
from server.runs.status import status_of

EVERY_S = 1.0


async def watch(state: AppState, outbox: Outbox) -> None:
    """One look at the running runs, then a pause."""
    await mark_silent(state, outbox)
    await asyncio.sleep(EVERY_S)


async def mark_silent(state: AppState, outbox: Outbox) -> list[str]:
    """Give runs whose agent was silent for too long the status; returns their ids."""
    moment = state.clock() - state.settings.lost_contact_s
    # Read first: a look every second must not take the write lock for nothing.
    async with state.database.reading() as session:
        silent = [run.id for run in await RunRepository(session).silent_since(moment)]
    if not silent:
        return []
    async with state.database.writing() as session:
        runs = await RunRepository(session).get_many(silent)
        # Checked again under the lock: a frame may have come in between.
        lost = [run for run in runs if run.status == "running" and _is_lost(state, run)]
        diagnoses = [await _lose(session, run, outbox, state.clock()) for run in lost]
    for diagnosis in diagnoses:
        await announce(state.bus, outbox, diagnosis)
    await publish_runs(state.bus, [run.id for run in lost])
    return [run.id for run in lost]


def _is_lost(state: AppState, run: RunRow) -> bool:
    status = status_of(
        ended=None,
        diverged=False,
        diverging=False,
        silent_s=state.clock() - run.last_seen,
        lost_contact_s=state.settings.lost_contact_s,
    )
    return status == "lost_contact"


async def _lose(session: AsyncSession, run: RunRow, outbox: Outbox, now: float) -> Diagnosis:
    await RunRepository(session).change(run.id, status="lost_contact")
    silent_s = now - run.last_seen
    step = run.last_step or 0
    return await report_silence(
        session, run_id=run.id, step=step, seconds=silent_s, outbox=outbox, now=now
    )
