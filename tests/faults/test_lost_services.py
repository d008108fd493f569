"""Whatever is killed: what was acknowledged stays, the rest is resent, nothing is stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.services.agent import Agent, batch, frame
from tests.services.polling import eventually
from tests.services.postgres import Postgres
from tests.services.redis import Redis
from tests.services.server import ServerProcess
from tests.services.spooling import SpoolingAgent

TOTAL = 300
pytestmark = [pytest.mark.services, pytest.mark.xdist_group("faults")]


@pytest.fixture
def mortal_redis() -> Iterator[Redis]:
    """A Redis that a test may kill."""
    server = Redis()
    yield server
    server.close()


@pytest.fixture
def mortal_postgres() -> Iterator[Postgres]:
    """A Postgres that a test may crash."""
    server = Postgres()
    yield server
    server.close()


@asynccontextmanager
async def _sending(server: ServerProcess) -> AsyncIterator[SpoolingAgent]:
    """An agent at work on this server, which is ended with it."""
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
            agent = Agent(client)
            await agent.declare()
            yield SpoolingAgent(agent, TOTAL)
    finally:
        server.kill()


async def _survives(spooling: SpoolingAgent, *blows: Callable[[], None]) -> None:
    """Send everything while the blows fall one after the other, then look at what is there."""
    work = asyncio.create_task(spooling.run())
    for number, blow in enumerate(blows, start=1):
        reached = asyncio.create_task(spooling.reaches(number * TOTAL // (len(blows) + 1)))
        await asyncio.wait({work, reached}, return_when=asyncio.FIRST_COMPLETED)
        assert not work.done(), "everything was sent before the blow fell"
        await asyncio.to_thread(blow)
    await work

    agent = spooling.agent
    assert (await agent.get("/steps"))["steps"] == list(range(1, TOTAL + 1))
    assert (await agent.get())["frames"] == TOTAL
    assert (await agent.declare()).durable == {"0": TOTAL}


async def test_killed_server_loses_nothing_acknowledged_on_sqlite(tmp_path: Path):
    server = ServerProcess(tmp_path / "server")
    async with _sending(server) as spooling:

        def crash() -> None:
            server.kill()
            server.start()

        await _survives(spooling, crash)

        assert spooling.failures > 0


async def test_killed_server_loses_nothing_acknowledged_on_postgres_and_redis(
    tmp_path: Path, postgres: Postgres, redis: Redis
):
    redis.empty()
    url = await postgres.fresh()
    server = ServerProcess(tmp_path / "server", database_url=url, redis_url=redis.url)
    async with _sending(server) as spooling:

        def crash() -> None:
            server.kill()
            server.start()

        await _survives(spooling, crash)

        assert spooling.failures > 0


async def test_redis_that_comes_back_empty_costs_a_resend_only(
    tmp_path: Path, postgres: Postgres, mortal_redis: Redis
):
    url = await postgres.fresh()
    server = ServerProcess(tmp_path / "server", database_url=url, redis_url=mortal_redis.url)
    async with _sending(server) as spooling:

        def crash() -> None:
            mortal_redis.kill()
            mortal_redis.start()

        await _survives(spooling, crash)


async def test_crashed_postgres_loses_nothing_acknowledged(
    tmp_path: Path, mortal_postgres: Postgres, redis: Redis
):
    redis.empty()
    url = await mortal_postgres.fresh()
    server = ServerProcess(tmp_path / "server", database_url=url, redis_url=redis.url)
    async with _sending(server) as spooling:
        await _survives(spooling, mortal_postgres.restart)


async def test_server_whose_redis_is_away_says_so_and_recovers(
    tmp_path: Path, postgres: Postgres, mortal_redis: Redis
):
    url = await postgres.fresh()
    server = ServerProcess(tmp_path / "server", database_url=url, redis_url=mortal_redis.url)
    async with _sending(server) as spooling:
        client = spooling.agent.client

        async def ready() -> int:
            return (await client.get("/readyz")).status_code

        mortal_redis.kill()
        answers = (await ready(), (await client.get("/healthz")).status_code)
        refused = await spooling.agent.post(batch([frame(1)]))
        mortal_redis.start()

        assert answers == (503, 200)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        await eventually(ready, lambda status: status == 200)
        await spooling.run()
