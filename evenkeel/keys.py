"""Keys from the command line: make one, list them, revoke one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evenkeel.options import DatabaseUrl, DataDir, clean_exit
from server.errors import StartError

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys.")


@app.command()
def create(
    scope: Annotated[list[str], typer.Option(help="ingest, read or admin; repeatable.")],
    project: Annotated[str | None, typer.Option(help="Only this project; default all.")] = None,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from evenkeel.database import with_database
    from server.access.service import create_key

    scopes: list[Any] = scope  # the service checks them, and names the valid ones
    options = {"database_url": database_url, "data_dir": data_dir}
    key = with_database(
        options, lambda database: create_key(database, scopes=scopes, project=project, label=label)
    )
    print(key)


@app.command("list")
def show(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """List the keys, without their secrets."""
    from evenkeel.database import with_database
    from server.access.service import list_keys

    options = {"database_url": database_url, "data_dir": data_dir}
    for key in with_database(options, list_keys):
        state = "revoked" if key.revoked_at else "valid"
        where = key.project or "all projects"
        print(f"{key.id}  {state:8}{','.join(key.scopes):20}{where:20}{key.label}")


@app.command()
def revoke(key_id: str, database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Revoke a key by the id that `list` shows."""
    from evenkeel.database import with_database
    from server.access.service import revoke_key

    options = {"database_url": database_url, "data_dir": data_dir}
    if not with_database(options, lambda database: revoke_key(database, key_id)):
        with clean_exit():
            raise StartError(f"there is no key {key_id!r}; see 'evenkeel key list'")
    print(f"{key_id} is revoked.")
