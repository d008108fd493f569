"""Gives up messages that nobody took in time, and forgets old ones."""

from __future__ import annotations

import asyncio

import structlog

from server.clock import Clock
from server.database import Database
from server.outbox.repository import DeliveryRepository

EVERY_S = 60.0
DAY_S = 86_400.0
KEPT_S = {"delivered": 7 * DAY_S, "digested": 30 * DAY_S, "dead": 30 * DAY_S}

log = structlog.get_logger(__name__)


async def tidy(database: Database, clock: Clock) -> None:
    """One look at old deliveries, then a pause."""
    await expire_and_purge(database, clock())
    await asyncio.sleep(EVERY_S)


async def expire_and_purge(database: Database, now: float) -> None:
    """Give up what has waited for too long; delete what ended long ago."""
    async with database.writing() as session:
        repository = DeliveryRepository(session)
        expired = await repository.expire(now)
        for status, kept_s in KEPT_S.items():
            await repository.purge(status, now - kept_s)
    if expired:
        log.warning("deliveries_given_up", count=expired)
