"""Serve an app with uvicorn; what stops a start is one line, not a traceback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from server import logs, migration
from server.app import create_app
from server.database import connect
from server.errors import StartError
from server.settings import Settings

SHUTDOWN_S = 5


def bind(settings: Settings) -> socket.socket:
    """A listening socket on the settings' address; port 0 takes a free one.

    Raises:
        StartError: if the port is in use or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # A restarted server must not wait until old connections have timed out.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise StartError(
            f"port: cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another with --port or EVENKEEL_PORT"
        ) from error
    return listener


def check(settings: Settings) -> None:
    """Bring the embedded database up to date, or require that another one is.

    The app does so too when it starts; here a failure is one line, where uvicorn's would be a
    traceback.

    Raises:
        StartError: if the database or the data folder cannot be used.
    """
    asyncio.run(_check(settings))


async def _check(settings: Settings) -> None:
    database = connect(settings.resolved_database_url)
    try:
        await migration.prepare(settings, database)
    finally:
        await database.close()


class _Server(uvicorn.Server):
    """Calls `before_exit` when it is interrupted, and still answers meanwhile."""

    before_exit: Callable[[], None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.before_exit is not None:
            await asyncio.to_thread(self.before_exit)
        await super().shutdown(sockets)


def serve(
    settings: Settings,
    app: FastAPI | None = None,
    *,
    listener: socket.socket | None = None,
    before_exit: Callable[[], None] | None = None,
) -> None:
    """Serve until interrupted; `app` is `create_app(settings)` when None.

    `before_exit` is called after the interrupt, on another thread, while requests are still
    answered.

    Raises:
        StartError: if the app cannot start; nothing is served then.
    """
    logs.configure(settings.log_format)
    check(settings)
    app = app or create_app(settings)
    listener = listener or bind(settings)
    config = uvicorn.Config(
        app,
        log_config=None,  # uvicorn's own would print its lines in another form than ours
        log_level="warning",
        lifespan="on",
        ws="websockets-sansio",
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = _Server(config)
    server.before_exit = before_exit
    with listener:
        server.run(sockets=[listener])
    if not server.started:
        raise StartError("the server did not start; see the lines above")
