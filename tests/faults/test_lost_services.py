"""Whatever is killed: what was acknowledged stays, the rest is resent, nothing is stored twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

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


async def _survives(spooling: SpoolingAgent, blow: Callable[[], None]) -> None:
    """Send everything while the blow falls half-way, then look at what is there."""
    spooling.limit = TOTAL // 2
    work = asyncio.create_task(spooling.run())
    await _finishes_before(work, spooling.reaches(spooling.limit))
    await _finishes_before(work, asyncio.to_thread(blow))
    spooling.limit = TOTAL
    await work

    agent = spooling.agent
    assert (await agent.get("/steps"))["steps"] == list(range(1, TOTAL + 1))
    assert (await agent.get())["frames"] == TOTAL
    assert (await agent.declare()).durable == {"0": TOTAL}


async def _finishes_before(work: asyncio.Task[None], event: Coroutine[Any, Any, None]) -> None:
    """Wait for `event`; fail as `work` does if that fails first."""
    waiting = asyncio.create_task(event)
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    await waiting


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


class Page:
    """An open page: it knows what it was told, and comes back when it is sent away."""

    def __init__(self, server: ServerProcess, run_id: str) -> None:
        self._url = f"ws://127.0.0.1:{server.port}/api/v1/live?runs={run_id}"
        self._run_id = run_id
        self.steps: list[int] = []
        self.frames: list[int] = []
        self.connections = 0

    async def stay(self) -> None:
        """Be open until cancelled."""
        while True:
            try:
                async with connect(self._url) as socket:
                    self.connections += 1
                    async for text in socket:
                        self._hear(json.loads(text))
            except (ConnectionClosed, InvalidStatus, OSError):
                await asyncio.sleep(0.01)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "hello":
            self.steps.append(message["runs"][self._run_id]["last_step"] or 0)
        elif message["type"] == "frame":
            self.steps.append(message["step"])
            self.frames.append(message["step"])

    async def knows(self, step: int) -> None:
        """Wait until the page has been told of a step."""

        async def told() -> list[int]:
            return self.steps

        await eventually(told, lambda steps: step in steps)


async def test_open_page_misses_nothing_when_redis_dies_and_comes_back(
    tmp_path: Path, postgres: Postgres, mortal_redis: Redis
):
    url = await postgres.fresh()
    server = ServerProcess(tmp_path / "server", database_url=url, redis_url=mortal_redis.url)
    async with _sending(server) as spooling:
        agent = spooling.agent
        page = Page(server, agent.run_id)
        opened = asyncio.create_task(page.stay())
        try:
            await page.knows(0)
            await agent.send([frame(1)])
            await page.knows(1)

            mortal_redis.kill()
            refused = await agent.post(batch([frame(2)]))
            mortal_redis.start()
            await _delivered(agent, 2)
            # Nobody may have heard of step 2, and nothing more is sent: the page must ask.
            await page.knows(2)
            await _delivered(agent, 3)
            await page.knows(3)
        finally:
            opened.cancel()
            await asyncio.gather(opened, return_exceptions=True)

    assert refused.status_code == 503
    assert page.connections > 1
    assert page.frames[-1] == 3


async def _delivered(agent: Agent, seq: int) -> None:
    """Send a frame until it is taken, and wait until it is committed."""

    async def taken() -> int:
        return (await agent.post(batch([frame(seq)], oldest=seq))).status_code

    await eventually(taken, lambda status: status == 200)
    await eventually(agent.get, lambda run: run["last_step"] == seq)
