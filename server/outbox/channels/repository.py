"""SQL over `channels` and `routes`."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_all, fetch_first
from server.outbox.channels.rows import ChannelRow, RouteRow
from server.tables import channels, routes


class ChannelRepository:
    """Channels in the order in which they were made."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self) -> list[ChannelRow]:
        """Every channel."""
        query = select(channels).order_by(channels.c.created_at, channels.c.id)
        return await fetch_all(self._session, query, ChannelRow)

    async def get(self, channel_id: str) -> ChannelRow | None:
        """The channel, or None."""
        query = select(channels).where(channels.c.id == channel_id)
        return await fetch_first(self._session, query, ChannelRow)

    async def add(self, channel: ChannelRow) -> None:
        """Store a new channel."""
        await self._session.execute(channels.insert().values(**msgspec.structs.asdict(channel)))

    async def change(self, channel_id: str, **values: Any) -> None:
        """Set columns of one channel."""
        statement = update(channels).where(channels.c.id == channel_id)
        await self._session.execute(statement.values(**values))

    async def remove(self, channel_id: str) -> None:
        """Delete a channel with its routes."""
        await self._session.execute(delete(routes).where(routes.c.channel == channel_id))
        await self._session.execute(delete(channels).where(channels.c.id == channel_id))


class RouteRepository:
    """Routes in the order in which they were made."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self) -> list[RouteRow]:
        """Every route."""
        query = select(routes).order_by(routes.c.created_at, routes.c.id)
        return await fetch_all(self._session, query, RouteRow)

    async def get(self, route_id: str) -> RouteRow | None:
        """The route, or None."""
        query = select(routes).where(routes.c.id == route_id)
        return await fetch_first(self._session, query, RouteRow)

    async def add(self, route: RouteRow) -> None:
        """Store a new route."""
        await self._session.execute(routes.insert().values(**msgspec.structs.asdict(route)))

    async def remove(self, route_id: str) -> None:
        """Delete a route."""
        await self._session.execute(delete(routes).where(routes.c.id == route_id))
