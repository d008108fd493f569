"""Serve API and pages, and announce their address once they answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import httpx

from evenkeel.composition import compose
from evenkeel.processes import interruptible
from server.access.service import login_url
from server.database import connect
from server.run import bind, serve
from server.settings import Settings

START_S = 120.0


def run_server(
    settings: Settings,
    when_ready: Callable[[str], None],
    *,
    before_exit: Callable[[], None] | None = None,
) -> None:
    """Serve until interrupted; `when_ready` receives the server's URL once it answers.

    It is called on a separate thread, so it may block. `before_exit` runs after the interrupt,
    while the server still answers.

    Raises:
        StartError: if the server cannot start.
    """
    app = compose(settings)
    listener = bind(settings)
    url = url_of(settings.host, listener)
    with interruptible():
        threading.Thread(
            target=call_when_ready, args=(url, when_ready), name="ready", daemon=True
        ).start()
        serve(settings, app, listener=listener, before_exit=before_exit)


def call_when_ready(url: str, when_ready: Callable[[str], None]) -> None:
    """Call `when_ready` once the server answers.

    One request is enough: the socket listens already, so the request waits for the server.
    """
    try:
        httpx.get(f"{url}/healthz", timeout=START_S, trust_env=False)  # past any proxy
    except httpx.HTTPError:
        return  # it did not start, and has printed the reason
    when_ready(url)


def url_of(host: str, listener: socket.socket) -> str:
    """Return the address under which a browser on this machine reaches the server."""
    # a wildcard address is one to bind, not one to connect to
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")
    bracketed = f"[{shown}]" if ":" in shown else shown
    return f"http://{bracketed}:{listener.getsockname()[1]}"


def announce(settings: Settings, url: str) -> None:
    """Print the server's address and, where keys are required, a URL that logs in once."""
    print(f"evenkeel serves {url}", flush=True)
    if settings.keys_required:
        print(f"Log a browser in, once: {asyncio.run(make_login_url(settings, url))}", flush=True)


async def make_login_url(settings: Settings, url: str) -> str:
    """Return a URL that logs one browser in, once."""
    database = connect(settings.resolved_database_url)
    try:
        return await login_url(database, url)
    finally:
        await database.close()
