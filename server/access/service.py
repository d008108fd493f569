"""Make, check and revoke keys; let a browser in once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from server.access.principal import SCOPES, Principal, Scope, holder_of
from server.access.repository import AccessRepository
from server.access.rows import KeyRow
from server.clock import Clock, system_clock
from server.database import Database
from server.errors import InvalidField

KEY_PREFIX = "ek_"  # lets people and secret scanners recognise a key
LOGIN_LIFETIME_S = 15 * 60


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as it may be shown, without the key itself."""

    id: str
    project: str | None
    scopes: tuple[str, ...]
    label: str
    created_at: float
    revoked_at: float | None


async def create_key(
    database: Database,
    *,
    scopes: Sequence[Scope],
    project: str | None = None,
    label: str = "",
    clock: Clock = system_clock,
) -> str:
    """Make a key and return it; it cannot be shown again.

    Raises:
        InvalidField: if a scope is unknown or none is given.
    """
    _require_scopes(scopes)
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    row = KeyRow(
        id=secrets.token_hex(8),
        digest=digest_of(key),
        project=project,
        scopes=sorted(set(scopes)),
        label=label,
        created_at=clock(),
        revoked_at=None,
    )
    async with database.writing() as session:
        await AccessRepository(session).add_key(row)
    return key


async def list_keys(database: Database) -> list[KeyInfo]:
    """Every key, oldest first."""
    async with database.reading() as session:
        rows = await AccessRepository(session).all_keys()
    return [
        KeyInfo(
            id=row.id,
            project=row.project,
            scopes=tuple(row.scopes),
            label=row.label,
            created_at=row.created_at,
            revoked_at=row.revoked_at,
        )
        for row in rows
    ]


async def revoke_key(database: Database, key_id: str, clock: Clock = system_clock) -> bool:
    """Whether there was such a key to revoke."""
    async with database.writing() as session:
        return await AccessRepository(session).revoke(key_id, clock())


async def holder(database: Database, key: str) -> Principal | None:
    """Who holds this key; None if nobody does."""
    async with database.reading() as session:
        row = await AccessRepository(session).key_with(digest_of(key))
    return None if row is None else holder_of(row.scopes, row.project)


async def login_url(database: Database, base_url: str, clock: Clock = system_clock) -> str:
    """A URL that logs one browser in, once, within a quarter of an hour."""
    token = secrets.token_urlsafe(32)
    async with database.writing() as session:
        await AccessRepository(session).add_login(digest_of(token), clock() + LOGIN_LIFETIME_S)
    return f"{base_url.rstrip('/')}/login?token={token}"


async def use_login(database: Database, token: str, clock: Clock) -> bool:
    """Whether the token is good; it is used up by asking."""
    async with database.writing() as session:
        return await AccessRepository(session).use_login(digest_of(token), clock())


def digest_of(secret: str) -> str:
    """SHA-256 of a key or token, which is all that is stored.

    They hold 256 random bits: no dictionary helps to search for them, so that a slow password
    hash would cost every request and add nothing.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


def _require_scopes(scopes: Sequence[str]) -> None:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidField(
            f"unknown scopes: {', '.join(unknown)}" if unknown else "a key needs a scope",
            field="scopes",
            fix=f"give one or more of {', '.join(SCOPES)}",
        )
