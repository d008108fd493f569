"""One way to the database: sessions for reading, and transactions for writing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from threading import Thread
from typing import Any, TypeVar
from weakref import WeakSet

import msgspec
from sqlalchemy import Select, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.sql.schema import Table

from server.errors import DatabaseAway, MonitorError, StartError
from server.tables import metadata

__all__ = [
    "Database",
    "connect",
    "fetch_all",
    "fetch_first",
    "insert",
    "is_refusal",
    "metadata",
    "refuses_value",
]

R = TypeVar("R", bound=msgspec.Struct)

BUSY_TIMEOUT_MS = 10_000
THREAD_END_S = 2.0
# Of Postgres: a paused one would keep requests for ever.
COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, POOL_TIMEOUT_S = 15.0, 15.0, 15.0
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Database:
    """Sessions on one engine.

    SQLite takes one writer at a time; writers of this process queue on a lock rather than on
    SQLite's busy timeout, whose back-off would reorder and delay them.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        # Not on Postgres, where transactions of several runs may overlap.
        self._writer = asyncio.Lock() if self.is_sqlite else None
        self._threads: WeakSet[Thread] = WeakSet()
        # Set by the one who looks (`server.probe`): sessions are then refused at once.
        self.is_away = False
        self._open_sessions: Counter[asyncio.Task[Any] | None] = Counter()
        if self.is_sqlite:
            event.listen(engine.sync_engine, "connect", self._track_thread)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded kind."""
        return self.engine.dialect.name == "sqlite"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads."""
        self._require_answering()
        with self._in_session():
            async with self._sessions() as session:
                yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        self._require_answering()
        async with self._writer or nullcontext():
            with self._in_session():
                async with self._sessions.begin() as session:
                    yield session

    def _require_answering(self) -> None:
        if self.is_away:
            raise DatabaseAway("the database does not answer")

    def serves(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task` is inside a session.

        Cancelled there, it would leave its cursor in a reference cycle with the traceback, and
        SQLite keeps the lock of a closed connection until the cursor is collected, too.
        """
        return self._open_sessions[task] > 0

    @contextmanager
    def _in_session(self) -> Iterator[None]:
        """Count the current task among those that `serves` answers for."""
        task = asyncio.current_task()
        self._open_sessions[task] += 1
        try:
            yield
        finally:
            self._open_sessions[task] -= 1
            if not self._open_sessions[task]:
                del self._open_sessions[task]

    async def ping(self) -> None:
        """Raise unless the database answers."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Give every connection back, and wait until its thread has ended.

        A request cancelled at the end leaves a connection that closes behind our back; its
        thread reports to this loop, which must still be there.
        """
        await self.engine.dispose()
        await asyncio.to_thread(self._join_threads)

    def _track_thread(self, connection: Any, _: object) -> None:
        # aiosqlite keeps one thread a connection, and offers no public way to wait for it
        self._threads.add(connection.driver_connection._thread)

    def _join_threads(self) -> None:
        for thread in list(self._threads):
            thread.join(THREAD_END_S)


async def fetch_all(session: AsyncSession, query: Select[Any], kind: type[R]) -> list[R]:
    """The rows of a query as `kind`, whose fields are the query's columns in their order."""
    return [kind(*row) for row in await session.execute(query)]


async def fetch_first(session: AsyncSession, query: Select[Any], kind: type[R]) -> R | None:
    """The first row of a query as `kind`, or None."""
    row = (await session.execute(query)).first()
    return None if row is None else kind(*row)


def refuses_value(error: DBAPIError) -> bool:
    """Whether the database, or its driver, refuses a value: trying again changes nothing.

    asyncpg's errors arrive as plain `DBAPIError`: that of a value which it does not send is a
    ValueError, and that of a value which Postgres refuses has an SQLSTATE of class 22 or 23.
    """
    if isinstance(error, (DataError, IntegrityError)):
        return True
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    is_unsent = isinstance(getattr(error.orig, "__cause__", None), ValueError)
    return is_unsent or sqlstate[:2] in ("22", "23")


def is_refusal(error: Exception) -> bool:
    """Whether what was to be stored is to blame, so that no later attempt can store it.

    A batch is checked when it arrives, but another version may have left this one on Redis, or
    the database knows more limits than the checks. Dropping it loses nothing: the ack watermark
    stays below its frames, so that their agent keeps them.
    """
    if isinstance(error, DBAPIError):
        return refuses_value(error)
    return isinstance(error, (MonitorError, ValueError, LookupError, OverflowError))


def insert(session: AsyncSession, table: Table) -> Any:
    """An INSERT of this session's dialect, so that ``on_conflict_do_…`` is there."""
    dialect = session.get_bind().dialect.name
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def connect(url: str, *, command_timeout_s: float | None = COMMAND_TIMEOUT_S) -> Database:
    """A database of this URL; nothing is opened yet.

    A statement on Postgres fails after `command_timeout_s`; with None it may take as long as it
    takes, as migrations do.

    Raises:
        StartError: if the URL is not one, or names a database that is not supported.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StartError(f"database_url: {url!r} is not a database URL") from error
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        raise StartError(
            f"database_url: {parsed.get_backend_name()!r} is not supported; "
            "use sqlite+aiosqlite:///PATH or postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        )
    parsed = parsed.set(drivername=driver)
    if driver.startswith("sqlite"):
        return Database(_sqlite_engine(str(parsed)))
    # A restarted Postgres leaves dead connections behind: test one before it is used.
    return Database(
        create_async_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=10,
            pool_timeout=POOL_TIMEOUT_S,
            connect_args={"timeout": CONNECT_TIMEOUT_S, "command_timeout": command_timeout_s},
        )
    )


def _sqlite_engine(url: str) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    # FULL: what is acknowledged as durable outlives a power cut, not only a killed process.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
