"""Keys and one-time logins in the database."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from sqlalchemy import CursorResult, Update, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.access.rows import KeyRow
from server.database import fetch_all, fetch_first
from server.tables import keys, logins


class AccessRepository:
    """Rows of `keys` and `logins`; only digests are stored."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add_key(self, key: KeyRow) -> None:
        """Store a new key's digest and scopes."""
        await self._session.execute(keys.insert().values(**msgspec.structs.asdict(key)))

    async def key_with(self, digest: str) -> KeyRow | None:
        """The unrevoked key of this digest."""
        query = select(keys).where(keys.c.digest == digest, keys.c.revoked_at.is_(None))
        return await fetch_first(self._session, query, KeyRow)

    async def all_keys(self) -> list[KeyRow]:
        """Every key, oldest first."""
        return await fetch_all(self._session, select(keys).order_by(keys.c.created_at), KeyRow)

    async def revoke(self, key_id: str, now: float) -> bool:
        """Whether such a key was there to revoke."""
        change = update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
        return await self._changed(change.values(revoked_at=now))

    async def add_login(self, digest: str, expires_at: float) -> None:
        """Store a one-time login."""
        await self._session.execute(logins.insert().values(digest=digest, expires_at=expires_at))

    async def use_login(self, digest: str, now: float) -> bool:
        """Use a login up; False if it is unknown, used or expired."""
        # One statement: of two browsers with the same URL, one changes the row.
        change = update(logins).where(
            logins.c.digest == digest, logins.c.used_at.is_(None), logins.c.expires_at > now
        )
        return await self._changed(change.values(used_at=now))

    async def _changed(self, change: Update) -> bool:
        result = cast("CursorResult[Any]", await self._session.execute(change))
        return result.rowcount == 1
