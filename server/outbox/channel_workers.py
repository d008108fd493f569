"""Begins and ends a delivery worker for each channel of the database as channels come and go."""

from __future__ import annotations

from typing import NamedTuple

import structlog
from prometheus_client import Counter

from server.clock import Clock
from server.database import Database
from server.errors import StartError
from server.outbox.channels.repository import ChannelRepository
from server.outbox.channels.rows import ChannelRow, RateLimit
from server.outbox.channels.targets import target_of_channel
from server.outbox.outbox import Outbox
from server.outbox.targets import Target
from server.outbox.worker import DeliveryWorker
from server.workers import Workers

LOOK_EVERY_S = 1.0  # how soon a channel is served that another process stored

log = structlog.get_logger(__name__)


class _Setup(NamedTuple):
    """What a worker is made for; a change of it makes another worker."""

    url: str
    secrets: tuple[str, ...]
    limit: RateLimit | None


class ChannelWorkers:
    """The delivery workers of the channels that people made."""

    def __init__(
        self, workers: Workers, outbox: Outbox, database: Database, clock: Clock, attempts: Counter
    ) -> None:
        self._workers = workers
        self._outbox = outbox
        self._database = database
        self._clock = clock
        self._attempts = attempts
        self._served: dict[str, tuple[_Setup, Target | None]] = {}

    async def turn(self) -> None:
        """One look at the channels, then a pause."""
        await self.refresh()
        await self._outbox.news("channels", LOOK_EVERY_S)

    async def refresh(self) -> None:
        """Serve each channel that is switched on as it is stored now, and no other."""
        async with self._database.reading() as session:
            rows = await ChannelRepository(session).all()
        enabled = {row.id: row for row in rows if row.enabled}
        for channel_id, (setup, _) in list(self._served.items()):
            if channel_id not in enabled or _setup(enabled[channel_id]) != setup:
                await self._stop(channel_id)
        for channel_id, row in enabled.items():
            if channel_id not in self._served:
                self._start(row)

    async def close(self) -> None:
        """Let go of connections; the workers have ended by then."""
        for channel_id in list(self._served):
            await self._stop(channel_id)

    def _start(self, row: ChannelRow) -> None:
        target: Target | None = None
        try:
            target = target_of_channel(row.url, row.secrets)
        except StartError as error:  # another server has what this one lacks, or it waits for it
            log.warning("channel_not_served", channel=row.name, error=str(error))
        self._served[row.id] = (_setup(row), target)
        if target is None:
            return
        worker = DeliveryWorker(
            target,
            self._outbox,
            self._database,
            self._clock,
            self._attempts,
            target_id=row.id,
            limit=row.rate_limit,
        )
        self._workers.start(f"delivery {row.id}", worker.turn)

    async def _stop(self, channel_id: str) -> None:
        await self._workers.stop(f"delivery {channel_id}")
        _, target = self._served.pop(channel_id)
        if target is not None:
            await target.close()


def _setup(row: ChannelRow) -> _Setup:
    return _Setup(row.url, tuple(row.secrets), row.rate_limit)
