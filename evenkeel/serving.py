"""Serve API and pages, and say where once they answer."""

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
    """Serve until interrupted; `when_ready` gets the server's URL once it answers.

    It is called on a thread of its own, so that it may take its time. `before_exit` runs after the
    interrupt, while the server still answers.

    Raises:
        StartError: if the server cannot start.
    """
    app = compose(settings)
    listener = bind(settings)
    url = url_of(settings.host, listener)
    with interruptible():
        threading.Thread(target=tell, args=(url, when_ready), name="ready", daemon=True).start()
        serve(settings, app, listener=listener, before_exit=before_exit)


def tell(url: str, when_ready: Callable[[str], None]) -> None:
    """Call `when_ready` once the server answers; it listens already, so the request waits."""
    try:
        httpx.get(f"{url}/healthz", timeout=START_S, trust_env=False)  # past any proxy
    except httpx.HTTPError:
        return  # it did not start, and has said why
    when_ready(url)


def url_of(host: str, listener: socket.socket) -> str:
    """The address a browser on this machine would open."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")
    bracketed = f"[{shown}]" if ":" in shown else shown
    return f"http://{bracketed}:{listener.getsockname()[1]}"


def announce(settings: Settings, url: str) -> None:
    """Print where the pages are; where keys are required, with a login that works once."""
    print(f"evenkeel serves {url}", flush=True)
    if settings.keys_required:
        print(f"Log a browser in, once: {asyncio.run(one_login(settings, url))}", flush=True)


async def one_login(settings: Settings, url: str) -> str:
    """A URL that logs one browser in."""
    database = connect(settings.resolved_database_url)
    try:
        return await login_url(database, url)
    finally:
        await database.close()
