"""Where messages are put, inside the transaction of the change that they tell of."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from server.outbox.channels.repository import ChannelRepository, RouteRepository
from server.outbox.channels.rows import carries
from server.outbox.message import Message
from server.outbox.repository import DeliveryRepository, TargetRepository
from server.outbox.templates import render


class _Receiver(NamedTuple):
    """A channel as far as messages are put for it."""

    id: str
    name: str
    project: str | None = None
    title_template: str = ""
    text_template: str = ""


class Outbox:
    """The way to every channel: those of the settings, and those in the database.

    Attributes:
        targets: names of the settings' targets by id.
        give_up_s: how long a message is tried.
        public_url: where people reach the pages, for links; "" where nobody said.
    """

    def __init__(
        self, targets: Mapping[str, str], *, give_up_s: float, public_url: str = ""
    ) -> None:
        self.targets = dict(targets)
        self.give_up_s = give_up_s
        self.public_url = public_url.rstrip("/")
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._sending: set[asyncio.Task[Any] | None] = set()

    async def put(self, session: AsyncSession, messages: Iterable[Message], now: float) -> None:
        """Store messages for every channel that carries them, in the channel's words.

        They are sent once the caller's transaction stands.
        """
        messages = tuple(messages)
        if not messages:
            return
        routes = await RouteRepository(session).all()
        for receiver in await self._receivers(session):
            carried = [
                render(message, title=receiver.title_template, text=receiver.text_template)
                for message in messages
                if receiver.project in (None, message.project)
                and carries(routes, receiver.id, message)
            ]
            await self._add(session, receiver, carried, now)

    async def put_one(
        self, session: AsyncSession, target: str, message: Message, now: float
    ) -> str:
        """Store a message for one target that is known already; returns its delivery's id."""
        row = self._row(target, message, now)
        await DeliveryRepository(session).add([row])
        return str(row["id"])

    async def knows(self, session: AsyncSession, target: str) -> bool:
        """Whether somebody would send to this target."""
        if target in self.targets:
            return True
        channel = await ChannelRepository(session).get(target)
        return channel is not None and channel.enabled

    async def _receivers(self, session: AsyncSession) -> list[_Receiver]:
        of_settings = [_Receiver(target, name) for target, name in self.targets.items()]
        return of_settings + [
            _Receiver(row.id, row.name, row.project, row.title_template, row.text_template)
            for row in await ChannelRepository(session).all()
            if row.enabled
        ]

    async def _add(
        self, session: AsyncSession, receiver: _Receiver, messages: Iterable[Message], now: float
    ) -> None:
        rows = [self._row(receiver.id, message, now) for message in messages]
        if rows:
            await TargetRepository(session).add(receiver.id, receiver.name)
            await DeliveryRepository(session).add(rows)

    def _row(self, target: str, message: Message, now: float) -> dict[str, object]:
        return {
            "id": uuid.uuid4().hex,
            "target": target,
            **message.columns,
            "status": "pending",
            "attempts": 0,
            "retry_at": 0.0,
            "stepped_aside": False,
            "last_error": "",
            "created_at": now,
            "expires_at": now + self.give_up_s,
            "answer": "",
            "held": False,
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

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Count the current task among those that `sends` answers for."""
        task = asyncio.current_task()
        self._sending.add(task)
        try:
            yield
        finally:
            self._sending.discard(task)

    def sends(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task waits for a target's answer: cut off there, it would have to ask again."""
        return task in self._sending
