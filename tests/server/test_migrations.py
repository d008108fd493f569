from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text

from server.database import Database, connect
from server.migration import apply, configuration
from server.settings import Settings
from server.tables import alerts, incidents, metadata


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


async def test_alerts_of_an_older_server_have_an_incident_each(migrated: Database):
    old_alert = {
        "id": "a" * 32, "run_id": "b" * 32, "key": "lost_contact||agent", "rule": "lost_contact",
        "severity": "warning", "title": "t", "message": "m", "stack": "", "site": "agent",
        "quantity": "", "step": 7, "last_step": 9, "unit": "", "advice": "{}", "status": "open",
        "opened_at": 5.0,
    }  # fmt: skip
    names = ", ".join(old_alert)
    values = ", ".join(f":{name}" for name in old_alert)
    async with migrated.engine.begin() as connection:
        await connection.run_sync(_travel, "downgrade", "0005")
        await connection.execute(text(f"INSERT INTO alerts ({names}) VALUES ({values})"), old_alert)
        await connection.run_sync(_travel, "upgrade", "head")
        incident = (await connection.execute(select(incidents))).mappings().one()
        alert = (await connection.execute(select(alerts))).mappings().one()

    assert (alert["incident"], alert["began"]) == (incident["id"], 7)
    assert (incident["domain"], incident["root"], incident["notified"]) == (
        "contact",
        alert["id"],
        "warning",
    )
