from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from server.database import Database, connect
from server.migration import apply, configuration
from server.settings import Settings
from server.tables import metadata


@pytest.fixture
async def migrated(settings: Settings) -> AsyncIterator[Database]:
    settings.data_dir.mkdir(exist_ok=True)
    (settings.data_dir / "evenkeel.db").unlink(missing_ok=True)  # the template's tables are there
    database = connect(settings.resolved_database_url)
    await apply(database)
    yield database
    await database.close()


def _partition(name: str | None) -> bool:
    return name is not None and name.rpartition("_")[2].isdigit()


def _differences(connection: Connection) -> list[object]:
    options = {"include_name": lambda name, kind, _: kind != "table" or not _partition(name)}
    context = MigrationContext.configure(connection, opts=options)
    return compare_metadata(context, metadata)


def _tables(connection: Connection) -> set[str]:
    return {name for name in inspect(connection).get_table_names() if not _partition(name)}


def _travel(connection: Connection, direction: str, target: str) -> None:
    config = configuration()
    config.attributes["connection"] = connection
    getattr(command, direction)(config, target)


async def test_migrations_make_the_tables_that_the_server_reads(migrated: Database):
    async with migrated.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_history_goes_down_and_up_again(migrated: Database):
    async with migrated.engine.begin() as connection:
        await connection.run_sync(_travel, "downgrade", "base")
        left = await connection.run_sync(_tables)
        await connection.run_sync(_travel, "upgrade", "head")
        made = await connection.run_sync(_tables)

    assert left == {"alembic_version"}
    assert made == {"alembic_version", *metadata.tables}
