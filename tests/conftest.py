"""Fixtures of every test: a server's settings on each back end, a running app, an agent."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from server.app import create_app
from server.migration import migrate
from server.settings import Settings
from tests.services.agent import Agent
from tests.services.postgres import Postgres, bin_folder
from tests.services.redis import Redis
from tests.services.serving import running

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported

# How long an example takes depends on what else the machine does.
hypothesis_settings.register_profile(
    "any load", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any load")
BACK_ENDS = ("embedded", pytest.param("services", marks=pytest.mark.services))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is set on the machine that runs the tests does not reach them."""
    for name in ("HOST", "PORT", "DATABASE_URL", "REDIS_URL", "REQUIRE_KEYS", "SECRET"):
        monkeypatch.delenv(f"EVENKEEL_{name}", raising=False)
    for name in ("WEBHOOKS", "WEBHOOK_SECRETS"):
        monkeypatch.delenv(f"EVENKEEL_{name}", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "EVENKEEL_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EVENKEEL_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres for the whole session; each test takes a fresh database of it."""
    if bin_folder() is None:
        pytest.skip("Postgres is not installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis for the whole session; each test begins with it empty."""
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed")
    server = Redis()
    yield server
    server.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose SQLite file has the current schema and no rows."""
    folder = tmp_path_factory.mktemp("migrated")
    migrate(Settings(data_dir=folder).resolved_database_url)
    return folder


@pytest.fixture
def embedded(migrated: Path, tmp_path: Path) -> Settings:
    """Settings of a server on SQLite and the in-process bus only."""
    return Settings(data_dir=shutil.copytree(migrated, tmp_path / "data"))


@pytest.fixture(params=BACK_ENDS)
async def settings(request: pytest.FixtureRequest, embedded: Settings, tmp_path: Path) -> Settings:
    """Settings of a server on SQLite and the in-process bus, then on Postgres and Redis."""
    if request.param == "embedded":
        return embedded
    postgres: Postgres = request.getfixturevalue("postgres")
    redis: Redis = request.getfixturevalue("redis")
    redis.empty()
    database_url = await postgres.fresh()
    return Settings(data_dir=tmp_path / "data", database_url=database_url, redis_url=redis.url)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """An app of these settings, not running yet."""
    return create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running app."""
    async with running(app) as client:
        yield client


@pytest.fixture
async def agent(client: httpx.AsyncClient) -> Agent:
    """The agent of a declared run."""
    agent = Agent(client)
    await agent.declare()
    return agent
