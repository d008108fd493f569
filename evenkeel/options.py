"""Options that several commands share, and how a failure becomes one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from server.errors import StartError
from server.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8321"

Host = Annotated[str | None, typer.Option(help="Address to bind.")]
Port = Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQLAlchemy URL; default SQLite.")]
RedisUrl = Annotated[str | None, typer.Option(help="Redis of the bus; default in-process.")]
ServerUrl = Annotated[
    str, typer.Option("--server", envvar="EVENKEEL_URL", help="URL of the server.")
]
ServerKey = Annotated[
    str | None, typer.Option("--key", envvar="EVENKEEL_KEY", help="Key with the read scope.")
]


def settings_from(**given: Any) -> Settings:
    """Settings of the environment, overridden by what was given on the command line.

    Raises:
        StartError: naming the setting that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise StartError(f"setting {name}: {first['msg']}, not {first['input']!r}") from error


@contextmanager
def one_clear_line() -> Iterator[None]:
    """Turn a `StartError` into its one line on standard error and exit code 2.

    Ctrl-C is how a server is meant to end, and so ends a command well.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except StartError as error:
        print(f"evenkeel: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
