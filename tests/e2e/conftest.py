from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.jobs import Jobs, Server
from tests.services.postgres import Postgres
from tests.services.process import free_port
from tests.services.redis import Redis

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE_MS = 60_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium, the machine's own.

    Playwright's loop runs for as long as it is open, and no asynchronous test beside it: so it
    closes with the module.
    """
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test if it asked for anything beyond this machine, or broke."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    outside: list[str] = []
    broken: list[str] = []
    opened.on("request", lambda sent: outside.append(sent.url) if leaves(sent.url) else None)
    opened.on("pageerror", lambda error: broken.append(str(error)))
    yield opened
    context.close()
    assert outside == []
    assert broken == []


def leaves(url: str) -> bool:
    """Whether a request goes beyond this machine."""
    return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """`evenkeel serve` as a user starts it, on a free port."""
    with Server(tmp_path / "data", free_port()) as started:
        yield started


@pytest.fixture
def replicated(tmp_path: Path, postgres: Postgres, redis: Redis) -> Iterator[Server]:
    """The same on Postgres and Redis, with the schema brought up by command first."""
    redis.empty()
    database = ["--database-url", postgres.url("postgres")]
    subprocess.run([sys.executable, "-m", "evenkeel", "migrate", *database], check=True)
    where = [*database, "--redis-url", redis.url]
    with Server(tmp_path / "data", free_port(), *where) as started:
        yield started


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Training jobs that end with the test."""
    with Jobs(tmp_path) as running:
        yield running
