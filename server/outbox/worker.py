"""The delivery worker: one for each target, so that a target that is away delays no other."""

from __future__ import annotations

import asyncio
import uuid

import structlog
from prometheus_client import Counter

from server.clock import Clock
from server.database import Database
from server.outbox import digests, retries
from server.outbox.channels.rows import RateLimit
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

    Beyond a channel's rate limit messages are held; what was held is told in one digest.
    """

    def __init__(
        self,
        target: Target,
        outbox: Outbox,
        database: Database,
        clock: Clock,
        attempts: Counter,
        *,
        target_id: str | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        """`target_id` is that of a channel, which outlives a change of its URL."""
        self._target = target
        self._target_id = target_id or target.id
        self._outbox = outbox
        self._database = database
        self._clock = clock
        self._attempts = attempts
        self._limit = limit
        self._id = uuid.uuid4().hex
        self._failing = False

    async def turn(self) -> None:
        """Send one message, or wait until there may be one."""
        if not await self.send_next():
            await self._outbox.news(self._target_id, POLL_S)

    async def send_next(self) -> bool:
        """Send the next message if one waits and nobody else sends; whether one was tried."""
        # Read first: a look every second must not take the write lock for nothing.
        if not await self._is_due():
            return False
        leased = await self._lease_next()
        if leased is None:
            return False
        delivery, target = leased
        with self._outbox.sending():
            try:
                changes, outcome = await self._attempt(delivery, target)
            except asyncio.CancelledError:
                await self._give_back()
                raise
        async with self._database.writing() as session:
            await DeliveryRepository(session).change(delivery.number, **changes.delivery)
            await TargetRepository(session).release(target.id, self._id, **changes.target)
        self._attempts.labels(self._target.name, outcome).inc()
        return True

    async def _is_due(self) -> bool:
        now = self._clock()
        async with self._database.reading() as session:
            target = await TargetRepository(session).get(self._target_id)
            if target is None or not target.is_free(self._id, now):
                return False
            deliveries = DeliveryRepository(session)
            delivery = await deliveries.next_of(target.id, now)
            if delivery is None:
                return False
            free_at = await self._free_at(deliveries, now)
            waiting = await deliveries.held(target.id, digests.MOST) if free_at > now else []
        if any(not row.held for row in waiting):
            await self._hold(free_at)
        return free_at <= now

    async def _free_at(self, deliveries: DeliveryRepository, now: float) -> float:
        """When the limit allows the next message; `now` where it does already."""
        if self._limit is None:
            return now
        sent_at = await deliveries.sent_at(self._target_id, now - self._limit.window_s)
        if len(sent_at) < self._limit.most:
            return now
        # One place is free when the message that is `most` back leaves the window.
        return sent_at[-self._limit.most] + self._limit.window_s

    async def _hold(self, free_at: float) -> None:
        async with self._database.writing() as session:
            expires_at = free_at + self._outbox.give_up_s
            await DeliveryRepository(session).hold(self._target_id, expires_at)

    async def _lease_next(self) -> tuple[DeliveryRow, TargetRow] | None:
        now = self._clock()
        async with self._database.writing() as session:
            targets, deliveries = TargetRepository(session), DeliveryRepository(session)
            if not await targets.lease(self._target_id, self._id, now=now, until=now + LEASE_S):
                return None
            # Read again under the lease: another worker may just have sent it.
            delivery = await deliveries.next_of(self._target_id, now)
            target = await targets.get(self._target_id)
            if delivery is None or target is None or await self._free_at(deliveries, now) > now:
                await targets.release(self._target_id, self._id)
                return None
            if delivery.held and not delivery.attempts:
                delivery = await self._folded(deliveries, delivery, now)
        return delivery, target

    async def _folded(
        self, deliveries: DeliveryRepository, delivery: DeliveryRow, now: float
    ) -> DeliveryRow:
        """The digest of what was held, in place of the first of it; that itself if it is alone."""
        held = await deliveries.held(self._target_id, digests.MOST)
        if len(held) < 2:
            return delivery
        digest = digests.digest_of(held)
        session = deliveries.session
        digest_id = await self._outbox.put_one(session, self._target_id, digest, now)
        await deliveries.fold([row.number for row in held], digest_id, now)
        stored = await deliveries.get(digest_id)
        return stored or delivery

    async def _attempt(
        self, delivery: DeliveryRow, target: TargetRow
    ) -> tuple[retries.Changes, str]:
        """Try once; what that changes, and what it is counted as."""
        try:
            answer = await self._target.send(delivery.id, delivery.message, self._clock())
        except DeliveryError as error:
            self._note_failure(error)
            changes = retries.after_failure(delivery, target, error, self._clock())
            is_dead = changes.delivery.get("status") == "dead"
            return changes, "given_up" if is_dead else "retried"
        self._failing = False
        return retries.after_success(delivery, answer, self._clock()), "delivered"

    async def _give_back(self) -> None:
        """End the lease of an attempt that was cut off, so that nobody waits for its end."""
        async with self._database.writing() as session:
            await TargetRepository(session).release(self._target_id, self._id)

    def _note_failure(self, error: DeliveryError) -> None:
        # Once until it succeeds again: a target that is away for a night fills no log.
        if not self._failing:
            log.warning("alert_not_delivered", target=self._target.name, error=str(error))
        self._failing = True
