"""Bring a database to the schema that this version reads, or raise the reason why not."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

import migrations
from server.database import BUSY_TIMEOUT_MS, Database, connect
from server.errors import DatabaseStarting, StartError
from server.settings import Settings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 4.0

log = structlog.get_logger(__name__)


def migrate(url: str) -> str:
    """Bring the database to this version's revision, and return that revision.

    Raises:
        StartError: if it cannot be reached, or is newer than this version.
    """
    return asyncio.run(_migrate_url(url))


async def prepare(settings: Settings, database: Database) -> None:
    """Bring the embedded database up to date; raise `StartError` unless another one is."""
    if not settings.embedded:
        await _when_it_answers(settings, database)
        return
    if settings.database_url is None:
        make_folder(settings.data_dir)
    await apply(database)


async def _when_it_answers(settings: Settings, database: Database) -> None:
    """`require_current`, as soon as the database answers or the wait is over."""
    give_up_at = time.monotonic() + settings.start_timeout
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await require_current(database)
        except DatabaseStarting as error:
            if time.monotonic() + pause_s > give_up_at:
                raise
            if pause_s == FIRST_PAUSE_S:
                log.warning("waiting_for_database", seconds=settings.start_timeout, why=str(error))
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def make_folder(folder: Path) -> None:
    """Make the data folder unless it is there.

    Raises:
        StartError: if that is impossible or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartError(
            f"data_dir: cannot write {folder}: {error.strerror}; "
            "set EVENKEEL_DATA_DIR to a folder you own"
        ) from error


async def apply(database: Database) -> str:
    """`migrate` for a database that is already connected."""
    _require_openable(database)
    try:
        async with database.engine.begin() as connection:
            return await connection.run_sync(_upgrade)
    except OSError as error:
        raise StartError(_unreachable(database, error)) from error
    except StartError:
        raise
    except Exception as error:
        raise StartError(_unreachable(database, error)) from error


async def require_current(database: Database) -> None:
    """Raise `StartError` unless the database has exactly this version's revision."""
    try:
        async with database.engine.connect() as connection:
            revision = await connection.run_sync(_revision)
    except Exception as error:
        kind = DatabaseStarting if _may_pass(error) else StartError
        raise kind(_unreachable(database, error)) from error
    if revision == _head():
        return
    if revision is None or _is_ours(revision):
        raise StartError(
            f"the database is at revision {revision or 'none'}, this version reads {_head()}; "
            "run `evenkeel migrate`"
        )
    raise StartError(_newer(revision))


def _require_openable(database: Database) -> None:
    """Raise `StartError` for an SQLite file that cannot be written.

    Asked without the asynchronous driver, whose thread outlives a failed opening and would
    print its own complaint below ours.
    """
    path = database.engine.url.database
    if not database.is_sqlite or path in (None, "", ":memory:"):
        return
    try:
        with closing(sqlite3.connect(str(path), timeout=BUSY_TIMEOUT_MS / 1000)) as probe:
            probe.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise StartError(_unreachable(database, error)) from error


async def _migrate_url(url: str) -> str:
    database = connect(url, command_timeout_s=None)
    try:
        return await apply(database)
    finally:
        await database.close()


def _upgrade(connection: Connection) -> str:
    revision = _revision(connection)
    if revision is not None and not _is_ours(revision):
        raise StartError(_newer(revision))
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return _head()


def configuration() -> Config:
    """Alembic's settings for the migrations inside this installation."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")  # Alembic warns where it is not set
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _head() -> str:
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    if head is None:  # pragma: no cover - the wheel ships at least one revision
        raise StartError("this installation has no migrations; reinstall evenkeel")
    return head


def _is_ours(revision: str) -> bool:
    """Whether this installation has the migration, so that the database is not newer."""
    scripts = ScriptDirectory.from_config(configuration())
    return any(script.revision == revision for script in scripts.walk_revisions())


def _newer(revision: str) -> str:
    return (
        f"the database is at revision {revision}, which is newer than this version of evenkeel; "
        "upgrade evenkeel, or point database_url elsewhere"
    )


def _may_pass(error: BaseException) -> bool:
    """Whether the database may answer later: it is away, starts, recovers, or is full of clients.

    A wrong password, or a database that does not exist, stays wrong.
    """
    cause = getattr(error, "orig", None) or error
    sqlstate = str(getattr(cause, "sqlstate", None) or "")
    return isinstance(cause, OSError) or sqlstate.startswith(("08", "53", "57P"))


def _unreachable(database: Database, error: BaseException) -> str:
    url = make_url(str(database.engine.url)).render_as_string(hide_password=True)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"database_url: cannot open {url}: {reason}"
