"""Where messages are put, inside the transaction of the change that they tell of."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from server.outbox.message import Message
from server.outbox.repository import DeliveryRepository, TargetRepository


class Outbox:
    """The way to every configured target.

    Attributes:
        targets: names of the targets by id.
        give_up_s: how long a message is tried.
    """

    def __init__(self, targets: Mapping[str, str], *, give_up_s: float) -> None:
        self.targets = dict(targets)
        self.give_up_s = give_up_s
        self._news = {target: asyncio.Event() for target in self.targets}

    async def put(self, session: AsyncSession, messages: Iterable[Message], now: float) -> None:
        """Store messages for every target: they are sent once the caller's transaction stands."""
        messages = tuple(messages)
        if not messages:
            return
        for target, name in self.targets.items():
            await TargetRepository(session).add(target, name)
            rows = [self._row(target, message, now) for message in messages]
            await DeliveryRepository(session).add(rows)

    def _row(self, target: str, message: Message, now: float) -> dict[str, object]:
        return {
            "id": uuid.uuid4().hex,
            "target": target,
            **msgspec.structs.asdict(message),
            "status": "pending",
            "attempts": 0,
            "retry_at": 0.0,
            "stepped_aside": False,
            "last_error": "",
            "created_at": now,
            "expires_at": now + self.give_up_s,
        }

    def wake(self) -> None:
        """Have this process look for messages now; those of others look a little later."""
        for news in self._news.values():
            news.set()

    async def news(self, target: str, timeout_s: float) -> None:
        """Wait until there may be something for a target."""
        news = self._news[target]
        with suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), timeout_s)
        news.clear()
