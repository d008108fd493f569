from __future__ import annotations

import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dashboard.api_client import ApiClient
from dashboard.app import mount
from server.app import create_app
from server.run import bind
from server.settings import Settings
from tests.dashboard.pushing import Push, pushing
from tests.services.process import wait_until
from tests.services.serving import running

PATIENCE_MS = 60_000
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The real server on SQLite, with the pages on it."""
    served = create_app(Settings(data_dir=tmp_path))
    mount(served)
    return served


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """What an agent or a browser would speak through."""
    async with running(app) as opened:
        yield opened


@pytest.fixture
def client(app: FastAPI, http: httpx.AsyncClient) -> ApiClient:
    """The dashboard's own client of that server, which is running."""
    return ApiClient(app)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with pages, on a free port, in a thread."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("site"), port=0, lost_contact_s=3600)
    app = create_app(settings)
    mount(app)
    with bind(settings) as listener:
        config = uvicorn.Config(app, log_level="error", lifespan="on", ws="websockets-sansio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the server starts")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def push(site: str) -> Push:
    """Sends frames to the site as an agent does."""
    return pushing(site)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for one module: no asynchronous test runs beside its loop."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """A page that asks nobody but the site, and whose scripts do not fail."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=site)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    failed: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    yield opened
    context.close()
    host = site.partition("://")[2]
    assert [url for url in asked if host not in url and not url.startswith("data:")] == []
    assert failed == []
