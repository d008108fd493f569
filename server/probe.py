"""Looks once a second whether the database answers and the disk has room, so that nobody waits.

A request that a paused database keeps waiting holds one of few connections; from the second look
that gets no answer, requests are refused at once instead, until one does.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.database import Database
from server.errors import DiskFull
from server.metrics import Metrics
from server.settings import Settings

EVERY_S = 1.0
ANSWER_S = 0.8  # a look takes no longer
MISSED = 2  # looks in a row without an answer: one may fall into a moment of load

log = structlog.get_logger(__name__)


class Probe:
    """What one server process knows of its database and its disk.

    Attributes:
        folder: where the database's file is, or None where it is another server's.
    """

    def __init__(self, settings: Settings, database: Database, metrics: Metrics) -> None:
        self._database, self._metrics = database, metrics
        self._floor_bytes = settings.disk_floor_bytes
        self.folder = folder_of(database)
        self._missed = 0

    async def turn(self) -> None:
        """One look, then a pause."""
        missed = 0 if await self.database() == "ok" else self._missed + 1
        if (missed >= MISSED) != self._database.is_away:
            self._database.is_away = missed >= MISSED
            log.warning("database_away" if self._database.is_away else "database_back")
        self._missed = missed
        self.disk()
        await asyncio.sleep(EVERY_S)

    async def database(self) -> str:
        """ "ok", or how the database does not answer; within a second."""
        try:
            await asyncio.wait_for(self._database.ping(), ANSWER_S)
        except (SQLAlchemyError, OSError) as error:
            return f"does not answer: {type(error).__name__}"
        return "ok"

    def disk(self) -> str:
        """ "ok", or how much of the room that is needed is left."""
        if self.folder is None:
            return "ok"
        free = free_bytes(self.folder)
        self._metrics.disk_free.set(free)
        if free >= self._floor_bytes:
            return "ok"
        return f"{free >> 20} MiB free, {self._floor_bytes >> 20} MiB needed"

    def require_room(self) -> None:
        """Raise `DiskFull` while the disk has too little room for what is to be stored."""
        room = self.disk()
        if room != "ok":
            raise DiskFull(
                f"the server's disk is full: {room}",
                fix="keep the frames, and free space on the server at its data folder",
            )


def folder_of(database: Database) -> Path | None:
    """The folder of the embedded database's file; None where there is no such file."""
    path = database.engine.url.database
    if not database.is_sqlite or path in (None, "", ":memory:"):
        return None
    return Path(str(path)).absolute().parent


def free_bytes(folder: Path) -> int:
    """Bytes that this process may still write there, or to the nearest folder above it."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(nearest).free
