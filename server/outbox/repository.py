"""SQL over `deliveries` and `delivery_targets`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_all, fetch_first, insert
from server.outbox.rows import DeliveryRow, ListedDelivery, TargetRow
from server.tables import channels, deliveries, delivery_targets


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries a list asks for; None means any."""

    status: str | None = None
    run: str | None = None
    project: str | None = None
    target: str | None = None


class DeliveryRepository:
    """Messages by target, in the order of their writing."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    @property
    def session(self) -> AsyncSession:
        """The session that it works in."""
        return self._session

    async def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Store new deliveries, in this order."""
        for row in rows:  # one by one: many at once need not be numbered in their order
            await self._session.execute(deliveries.insert().values(**row))

    async def get(self, delivery_id: str) -> ListedDelivery | None:
        """The delivery, or None."""
        query = _listed().where(deliveries.c.id == delivery_id)
        return await fetch_first(self._session, query, ListedDelivery)

    async def next_of(self, target_id: str, now: float) -> DeliveryRow | None:
        """The first message that waits for a target, past those that have stepped aside."""
        query = (
            select(deliveries)
            .where(
                deliveries.c.target == target_id,
                deliveries.c.status == "pending",
                or_(deliveries.c.stepped_aside.is_(False), deliveries.c.retry_at <= now),
            )
            .order_by(deliveries.c.number)
            .limit(1)
        )
        return await fetch_first(self._session, query, DeliveryRow)

    async def change(self, number: int, **values: Any) -> None:
        """Set columns of one delivery; one that was delivered stays so."""
        at = (deliveries.c.number == number, deliveries.c.status != "delivered")
        await self._session.execute(update(deliveries).where(*at).values(**values))

    async def sent_at(self, target_id: str, since: float) -> list[float]:
        """When messages were delivered to a target after a moment, oldest first."""
        of_target = (deliveries.c.target == target_id, deliveries.c.status == "delivered")
        query = select(deliveries.c.ended_at).where(*of_target, deliveries.c.ended_at > since)
        return list((await self._session.execute(query.order_by(deliveries.c.ended_at))).scalars())

    async def hold(self, target_id: str, expires_at: float) -> int:
        """Hold back what waits for a target and was never tried; how many are new to that.

        They expire later: they wait for their channel, and not for their target.
        """
        at = (*_untried(target_id), deliveries.c.held.is_(False))
        values = {"held": True, "expires_at": expires_at}
        return await self._changed(update(deliveries).where(*at).values(**values))

    async def held(self, target_id: str, most: int) -> list[DeliveryRow]:
        """What waits for a target's next digest, oldest first."""
        query = select(deliveries).where(*_untried(target_id)).order_by(deliveries.c.number)
        return await fetch_all(self._session, query.limit(most), DeliveryRow)

    async def fold(self, numbers: Iterable[int], digest: str, now: float) -> None:
        """Let a digest say these messages."""
        at = deliveries.c.number.in_(list(numbers))
        values = {"status": "digested", "digest": digest, "ended_at": now}
        await self._session.execute(update(deliveries).where(at).values(**values))

    async def drop(self, target_id: str, reason: str, now: float) -> int:
        """Give up all that waits for a target."""
        at = (deliveries.c.target == target_id, deliveries.c.status == "pending")
        values = {"status": "dead", "ended_at": now, "last_error": reason}
        return await self._changed(update(deliveries).where(*at).values(**values))

    async def expire(self, now: float) -> int:
        """Give up what has waited for too long, also for targets that nobody serves any more."""
        at = (deliveries.c.status == "pending", deliveries.c.expires_at <= now)
        unsent = func.coalesce(
            func.nullif(deliveries.c.last_error, ""), "no server that knows this target sent it"
        )
        values = {"status": "dead", "ended_at": now, "last_error": unsent}
        return await self._changed(update(deliveries).where(*at).values(**values))

    async def purge(self, status: str, before: float) -> int:
        """Delete deliveries of this status that ended before a moment."""
        at = (deliveries.c.status == status, deliveries.c.ended_at < before)
        return await self._changed(delete(deliveries).where(*at))

    async def page(
        self, filters: DeliveryFilter, *, before: int | None, limit: int
    ) -> list[ListedDelivery]:
        """Deliveries newest first, past a number."""
        query = _listed().order_by(deliveries.c.number.desc()).limit(limit)
        columns = {
            deliveries.c.status: filters.status,
            deliveries.c.run_id: filters.run,
            deliveries.c.project: filters.project,
            deliveries.c.target: filters.target,
        }
        query = query.where(*(c == value for c, value in columns.items() if value is not None))
        if before is not None:
            query = query.where(deliveries.c.number < before)
        return await fetch_all(self._session, query, ListedDelivery)

    async def _changed(self, statement: Any) -> int:
        result: CursorResult[Any] = await self._session.execute(statement)  # type: ignore[assignment]
        return result.rowcount


class TargetRepository:
    """Targets: how each fares, and who sends to it."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, target_id: str) -> TargetRow | None:
        """The target, or None."""
        query = select(delivery_targets).where(delivery_targets.c.id == target_id)
        return await fetch_first(self._session, query, TargetRow)

    async def add(self, target_id: str, name: str) -> None:
        """Store a target unless it is stored."""
        row = TargetRow(target_id, name, leased_by="", leased_until=0, failures=0, retry_at=0)
        columns = {field: getattr(row, field) for field in TargetRow.__struct_fields__}
        statement = insert(self._session, delivery_targets).values(**columns)
        await self._session.execute(statement.on_conflict_do_nothing())

    async def lease(self, target_id: str, worker: str, *, now: float, until: float) -> bool:
        """Let this worker alone send to the target, unless another one may or it is too early."""
        targets = delivery_targets.c
        statement = (
            update(delivery_targets)
            .where(
                targets.id == target_id,
                targets.retry_at <= now,
                or_(targets.leased_until <= now, targets.leased_by == worker),
            )
            .values(leased_by=worker, leased_until=until)
        )
        result: CursorResult[Any] = await self._session.execute(statement)  # type: ignore[assignment]
        return result.rowcount == 1

    async def release(self, target_id: str, worker: str, **values: Any) -> None:
        """End this worker's lease and set columns; nothing happens where it is another's."""
        at = (delivery_targets.c.id == target_id, delivery_targets.c.leased_by == worker)
        values = {**values, "leased_by": "", "leased_until": 0.0}
        await self._session.execute(update(delivery_targets).where(*at).values(**values))

    async def wake(self, target_id: str) -> None:
        """Let the target be tried at once."""
        at = delivery_targets.c.id == target_id
        await self._session.execute(update(delivery_targets).where(at).values(retry_at=0.0))


def _untried(target_id: str) -> tuple[Any, ...]:
    # What was tried keeps its idempotency key: its target may have taken it.
    return (
        deliveries.c.target == target_id,
        deliveries.c.status == "pending",
        deliveries.c.attempts == 0,
        deliveries.c.kind != "digest",
    )


def _listed() -> Any:
    # A channel may have been renamed since.
    name = func.coalesce(channels.c.name, delivery_targets.c.name)
    return (
        select(deliveries, name, delivery_targets.c.retry_at)
        .join(delivery_targets, delivery_targets.c.id == deliveries.c.target)
        .outerjoin(channels, channels.c.id == deliveries.c.target)
    )
