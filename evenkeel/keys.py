"""Keys from the command line: make one, list them, revoke one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from evenkeel.options import DatabaseUrl, DataDir, clean_exit, settings_from
from server.access.service import create_key, list_keys, revoke_key
from server.database import Database, connect
from server.errors import MonitorError, StartError
from server.migration import apply, require_current
from server.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys.")
T = TypeVar("T")


@app.command()
def create(
    scope: Annotated[list[str], typer.Option(help="ingest, read or admin; repeatable.")],
    project: Annotated[str | None, typer.Option(help="Only this project; default all.")] = None,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    scopes: list[Any] = scope  # the service checks them, and names the valid ones
    options = {"database_url": database_url, "data_dir": data_dir}
    key = with_database(
        options, lambda database: create_key(database, scopes=scopes, project=project, label=label)
    )
    print(key)


@app.command("list")
def show(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """List the keys, without their secrets."""
    options = {"database_url": database_url, "data_dir": data_dir}
    for key in with_database(options, list_keys):
        state = "revoked" if key.revoked_at else "valid"
        where = key.project or "all projects"
        print(f"{key.id}  {state:8}{','.join(key.scopes):20}{where:20}{key.label}")


@app.command()
def revoke(key_id: str, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Revoke a key by the id that `list` shows."""
    options = {"database_url": database_url, "data_dir": data_dir}
    if not with_database(options, lambda database: revoke_key(database, key_id)):
        with clean_exit():
            raise StartError(f"there is no key {key_id!r}; see 'evenkeel key list'")
    print(f"{key_id} is revoked.")


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
