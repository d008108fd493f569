"""The delivery worker: one for each target, so that a target that is away delays no other."""

from __future__ import annotations

import uuid

import structlog
from prometheus_client import Counter

from server.clock import Clock
from server.database import Database
from server.outbox import retries
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryRepository, TargetRepository
from server.outbox.rows import DeliveryRow, TargetRow
from server.outbox.targets import DeliveryError, Target

POLL_S = 1.0  # how soon messages are found that another process wrote
LEASE_S = 15.0  # longer than an attempt: after a crash, another process waits for so long

log = structlog.get_logger(__name__)


class DeliveryWorker:
    """Sends what waits for one target, one message after the other.

    The database holds what waits, and a lease lets one worker of all processes send. A message
    is sent again where a process died between sending it and saying so: with the same id.
    """

    def __init__(
        self, target: Target, outbox: Outbox, database: Database, clock: Clock, attempts: Counter
    ) -> None:
        self._target = target
        self._outbox = outbox
        self._database = database
        self._clock = clock
        self._attempts = attempts
        self._id = uuid.uuid4().hex
        self._failing = False

    async def turn(self) -> None:
        """Send one message, or wait until there may be one."""
        if not await self.send_next():
            await self._outbox.news(self._target.id, POLL_S)

    async def send_next(self) -> bool:
        """Send the next message if one waits and nobody else sends; whether one was tried."""
        # Read first: a look every second must not take the write lock for nothing.
        if not await self._is_due():
            return False
        leased = await self._lease_next()
        if leased is None:
            return False
        delivery, target = leased
        changes, outcome = await self._attempt(delivery, target)
        async with self._database.writing() as session:
            await DeliveryRepository(session).change(delivery.number, **changes.delivery)
            await TargetRepository(session).release(target.id, self._id, **changes.target)
        self._attempts.labels(self._target.name, outcome).inc()
        return True

    async def _is_due(self) -> bool:
        now = self._clock()
        async with self._database.reading() as session:
            target = await TargetRepository(session).get(self._target.id)
            if target is None or not target.is_free(self._id, now):
                return False
            return await DeliveryRepository(session).next_of(target.id, now) is not None

    async def _lease_next(self) -> tuple[DeliveryRow, TargetRow] | None:
        now = self._clock()
        async with self._database.writing() as session:
            targets = TargetRepository(session)
            if not await targets.lease(self._target.id, self._id, now=now, until=now + LEASE_S):
                return None
            # Read again under the lease: another worker may just have sent it.
            delivery = await DeliveryRepository(session).next_of(self._target.id, now)
            target = await targets.get(self._target.id)
            if delivery is None or target is None:
                await targets.release(self._target.id, self._id)
                return None
        return delivery, target

    async def _attempt(
        self, delivery: DeliveryRow, target: TargetRow
    ) -> tuple[retries.Changes, str]:
        """Try once; what that changes, and what it is counted as."""
        try:
            await self._target.send(delivery.id, delivery.message, self._clock())
        except DeliveryError as error:
            self._note_failure(error)
            changes = retries.after_failure(delivery, target, error, self._clock())
            is_dead = changes.delivery.get("status") == "dead"
            return changes, "given_up" if is_dead else "retried"
        self._failing = False
        return retries.after_success(delivery, self._clock()), "delivered"

    def _note_failure(self, error: DeliveryError) -> None:
        # Once until it succeeds again: a target that is away for a night fills no log.
        if not self._failing:
            log.warning("alert_not_delivered", target=self._target.name, error=str(error))
        self._failing = True
