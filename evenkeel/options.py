"""Options that several commands share, and the exit of a command that fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

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


def settings_from(**options: Any) -> Settings:
    """Return the environment's settings, overridden by the command line's options.

    Raises:
        StartError: naming the setting that is wrong.
    """
    try:  # None is an option that was not typed: the environment decides
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]  # a line names one mistake; the next start names the next
        name = ".".join(str(part) for part in first["loc"])
        raise StartError(f"setting {name}: {first['msg']}, not {first['input']!r}") from error
    except SettingsError as error:  # a list that is no JSON
        name = str(error).partition('"')[2].partition('"')[0]
        raise StartError(
            f'setting {name}: EVENKEEL_{name.upper()} is a list in JSON, such as \'["one", "two"]\''
        ) from error


@contextmanager
def clean_exit() -> Iterator[None]:
    """Turn a `StartError` into one line on standard error and exit code 2.

    Ctrl-C exits with 0, as that is how a server is stopped.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except StartError as error:
        print(f"evenkeel: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
