"""What is done with deliveries: list, try again, test the targets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from server import cursor as cursors
from server.database import Database
from server.errors import Conflict, NotFound
from server.outbox.message import sample_message
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryFilter, DeliveryRepository, TargetRepository
from server.outbox.rows import ListedDelivery
from server.outbox.schemas import Delivery, DeliveryPage, TargetAnswers
from server.outbox.targets import Target
from server.outbox.trial import answer_of


async def list_deliveries(
    database: Database, filters: DeliveryFilter, *, cursor: str | None, limit: int
) -> DeliveryPage:
    """One page of deliveries, newest first."""
    past = cursors.decode(cursor)
    async with database.reading() as session:
        rows = await DeliveryRepository(session).page(
            filters, before=None if past is None else int(past[0]), limit=limit + 1
        )
    shown = rows[:limit]
    more = len(rows) > limit
    return DeliveryPage(
        deliveries=[_delivery(row) for row in shown],
        next_cursor=cursors.encode(shown[-1].number, shown[-1].id) if more else None,
    )


async def retry(
    database: Database, outbox: Outbox, delivery_id: str, *, project: str | None, now: float
) -> Delivery:
    """Try a delivery again now, for as long as a new one is tried; its id stays the same.

    Raises:
        NotFound: if there is no such delivery in the project.
        Conflict: if it was delivered, is told by a digest, or its channel is no longer there.
    """
    async with database.writing() as session:
        repository = DeliveryRepository(session)
        row = await repository.get(delivery_id)
        if row is None or project not in (None, row.project):
            raise NotFound(
                f"there is no delivery {delivery_id!r}",
                field="delivery_id",
                fix="list deliveries with GET /api/v1/deliveries",
            )
        _require_retriable(row, is_known=await outbox.knows(session, row.target))
        expires_at = now + outbox.give_up_s
        await repository.change(
            row.number, status="pending", ended_at=None, retry_at=0.0, expires_at=expires_at
        )
        await TargetRepository(session).wake(row.target)
        changed = await repository.get(delivery_id)
    outbox.wake()
    return _delivery(changed or row)


def _require_retriable(row: ListedDelivery, *, is_known: bool) -> None:
    if row.status == "delivered":
        raise Conflict(
            f"delivery {row.id!r} has arrived",
            field="delivery_id",
            fix="retry a delivery whose status is dead or pending",
        )
    if row.status == "digested":
        raise Conflict(
            f"delivery {row.id!r} is told by the digest {row.digest!r}",
            field="delivery_id",
            fix="retry the digest",
        )
    if not is_known:
        raise Conflict(
            f"the channel {row.target_name} of delivery {row.id!r} is deleted or switched off",
            field="delivery_id",
            fix="switch the channel on, or put its URL back into EVENKEEL_WEBHOOKS",
        )


async def send_test(targets: Sequence[Target], now: float) -> TargetAnswers:
    """Send a test message to every target of the settings at once; nothing is tried again."""
    message = sample_message(now)
    answers = await asyncio.gather(*(answer_of(target, message, now) for target in targets))
    return TargetAnswers(answers=list(answers))


def _delivery(row: ListedDelivery) -> Delivery:
    next_attempt_at = None
    if row.status == "pending":
        next_attempt_at = max(row.created_at, row.retry_at, row.target_retry_at)
    names = Delivery.model_fields.keys() - {"target", "channel", "next_attempt_at"}
    return Delivery(
        target=row.target_name,
        channel=row.target,
        next_attempt_at=next_attempt_at,
        **{name: getattr(row, name) for name in names},
    )
