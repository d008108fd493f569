"""The database that a command's options name, opened at this version's schema."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from evenkeel.options import clean_exit, settings_from
from server.database import Database, connect
from server.errors import MonitorError, StartError
from server.migration import apply, require_current
from server.settings import Settings

T = TypeVar("T")


def with_database(options: dict[str, Any], use: Callable[[Database], Awaitable[T]]) -> T:
    """Return the result of `use` on the database that the options name, at this schema."""
    with clean_exit():
        try:
            return asyncio.run(_with_database(settings_from(**options), use))
        except MonitorError as error:
            raise StartError(f"{error.field}: {error.message}; {error.fix}") from error


async def _with_database(settings: Settings, use: Callable[[Database], Awaitable[T]]) -> T:
    database = connect(settings.resolved_database_url)
    try:
        if settings.embedded:  # nobody else migrates it; a shared one is its operator's to migrate
            settings.data_dir.mkdir(parents=True, exist_ok=True)
            await apply(database)
        else:
            await require_current(database)
        return await use(database)
    finally:
        await database.close()
