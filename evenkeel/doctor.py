"""``evenkeel doctor``: checks of the install, the database, the bus and the server."""

from __future__ import annotations

import os
import platform
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx

from evenkeel.api import connection_settings
from server.bus import open_bus
from server.database import connect
from server.errors import StartError
from server.migration import require_current
from server.probe import folder_of, free_bytes
from server.settings import Settings

PACKAGES = ("fastapi", "dash", "sqlalchemy", "redis")
EXTRAS = {"torch": "predict", "transformers": "predict", "pyarrow": "export", "apprise": "notify"}
Check = Callable[[], Awaitable[str]]


async def examine(settings: Settings, server: str, key: str | None) -> bool:
    """Print one line for every check; return whether all pass."""
    checks: dict[str, Check] = {
        "install": installed,
        "data folder": lambda: writable(settings.data_dir),
        "disk": lambda: room(settings),
        "database": lambda: reachable_database(settings),
        "bus": lambda: reachable_bus(settings),
        "server": lambda: answering(server, key),
    }
    results = [await report(name, check) for name, check in checks.items()]
    return all(results)


async def report(name: str, check: Check) -> bool:
    """Print the result of one check; return whether it passes."""
    try:
        print(f"ok    {name}: {await check()}")
    except (StartError, OSError, httpx.HTTPError) as error:
        print(f"FAIL  {name}: {error}")
        return False
    return True


async def installed() -> str:
    """Versions of Python and of what is installed beside it."""
    packages = map(package_line, [*PACKAGES, *EXTRAS])
    return ", ".join([f"python {platform.python_version()}", *packages])


def package_line(name: str) -> str:
    """The package and its version, or that it is absent and which extra brings it."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        extra = EXTRAS.get(name)
        return f"{name} not installed" + (f" (evenkeel[{extra}])" if extra else "")


async def writable(folder: Path) -> str:
    """Return that the folder can be written to, or made.

    Raises:
        StartError: if it can be neither.
    """
    nearest = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise StartError(f"{folder} cannot be written; set EVENKEEL_DATA_DIR to one that can")
    return f"{folder} can be written" if nearest == folder else f"{folder} will be made"


async def room(settings: Settings) -> str:
    """Return how much may still be written where the embedded database is.

    Raises:
        StartError: if it is so little that frames are refused.
    """
    database = connect(settings.resolved_database_url)
    folder = folder_of(database)
    await database.close()
    if folder is None:
        return "the database is another server's"
    free, floor = free_bytes(folder), settings.disk_floor_bytes
    if free < floor:
        raise StartError(
            f"{folder} has {free >> 20} MiB free, under the floor of {floor >> 20} MiB: frames are "
            "refused; free space there, or lower EVENKEEL_DISK_FLOOR_BYTES"
        )
    return f"{free >> 20} MiB free"


async def reachable_database(settings: Settings) -> str:
    """Return the database's URL, without its password.

    Raises:
        StartError: if it does not answer, or has another version's schema.
    """
    url = settings.resolved_database_url
    if settings.database_url is None and not (settings.data_dir / "evenkeel.db").exists():
        return "SQLite, made at the first start"
    database = connect(url)
    try:
        await require_current(database)
    finally:
        await database.close()
    return f"{database.engine.url.render_as_string()} has this version's schema"


async def reachable_bus(settings: Settings) -> str:
    """Return that the bus answers.

    Raises:
        StartError: if it does not.
    """
    if settings.redis_url is None:
        return "in-process, no Redis needed"
    bus = open_bus(settings)
    try:
        await bus.ping()
    except Exception as error:  # whatever the Redis client raises, the line is the same
        raise StartError(f"Redis at redis_url does not answer: {error}") from error
    finally:
        await bus.close()
    return "Redis answers"


async def answering(server: str, key: str | None) -> str:
    """Return that the server answers and accepts the key; an HTTP error if not."""
    settings = connection_settings(server, key)
    async with httpx.AsyncClient(base_url=server, timeout=5.0, **settings) as client:
        (await client.get("/readyz")).raise_for_status()
        (await client.get("/api/v1/runs", params={"limit": 1})).raise_for_status()
    return f"{server} answers"
