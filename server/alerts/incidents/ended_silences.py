"""Tells webhooks what still holds when a silence ends."""

from __future__ import annotations

import asyncio

from server.alerts.incidents.recording import put_due
from server.alerts.incidents.repository import IncidentRepository
from server.alerts.incidents.silence_repository import SilenceRepository
from server.clock import Clock
from server.database import Database
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository

EVERY_S = 5.0


async def watch_silences(database: Database, outbox: Outbox, clock: Clock) -> None:
    """One look at silences that have ended, then a pause."""
    await tell_what_was_silenced(database, outbox, clock())
    await asyncio.sleep(EVERY_S)


async def tell_what_was_silenced(database: Database, outbox: Outbox, now: float) -> None:
    """Delete silences that have ended, and put what is due of the incidents that are open."""
    async with database.reading() as session:
        if not await SilenceRepository(session).has_ended(now):
            return
    async with database.writing() as session:
        # Of several servers one deletes them, and the others find nothing to tell.
        if not await SilenceRepository(session).remove_ended(now):
            return
        for run_id, incident_ids in (await IncidentRepository(session).open_by_run()).items():
            await RunRepository(session).get(run_id, lock=True)
            await put_due(session, outbox, incident_ids, now)
    outbox.wake()
