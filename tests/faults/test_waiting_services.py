"""A database that starts late, stands still or has no room: told at once, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from tests.services.agent import Agent, batch, frame
from tests.services.polling import eventually
from tests.services.postgres import Postgres
from tests.services.redis import Redis
from tests.services.server import ServerProcess
from tests.services.serving import running


@pytest.fixture
def mortal_postgres() -> Iterator[Postgres]:
    """A Postgres that a test may stop."""
    server = Postgres()
    yield server
    server.close()


@pytest.mark.services
@pytest.mark.xdist_group("faults")
async def test_server_that_starts_before_its_database_waits_for_it(
    tmp_path: Path, mortal_postgres: Postgres, redis: Redis
):
    redis.empty()
    url = await mortal_postgres.fresh()
    mortal_postgres.crash()

    starting = asyncio.create_task(
        asyncio.to_thread(ServerProcess, tmp_path / "server", database_url=url, redis_url=redis.url)
    )
    log = tmp_path / "server" / "server.log"

    async def says() -> str:
        return log.read_text() if log.exists() else ""

    await eventually(says, lambda text: "waiting_for_database" in text)
    mortal_postgres.come_back()
    server = await starting
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
            assert (await client.get("/readyz")).status_code == 200
    finally:
        server.kill()

    text = log.read_text()
    assert "Traceback" not in text
    assert text.count("waiting_for_database") == 1


@pytest.mark.services
@pytest.mark.xdist_group("faults")
async def test_paused_database_keeps_nobody_waiting(
    tmp_path: Path, mortal_postgres: Postgres, redis: Redis
):
    redis.empty()
    url = await mortal_postgres.fresh()
    server = ServerProcess(tmp_path / "server", database_url=url, redis_url=redis.url)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=60.0) as client:
            agent = Agent(client)
            await agent.declare()
            await agent.send([frame(1)])
            mortal_postgres.signal(signal.SIGSTOP)
            try:

                async def ready() -> int:
                    return (await client.get("/readyz")).status_code

                await eventually(ready, lambda status: status == 503)

                async def refused() -> httpx.Response:
                    return await agent.post(batch([frame(2)], oldest=2))

                answer = await eventually(refused, lambda answer: answer.status_code == 503)
            finally:
                mortal_postgres.signal(signal.SIGCONT)
            assert answer.headers["retry-after"] == "2"

            async def taken() -> int:
                return (await agent.post(batch([frame(2)], oldest=2))).status_code

            await eventually(taken, lambda status: status == 200)
            await eventually(agent.get, lambda run: run["last_step"] == 2)
    finally:
        server.kill()


async def test_full_disk_refuses_frames_at_once_and_loses_none(tmp_path: Path):
    from server.app import create_app

    full = create_app(Settings(data_dir=tmp_path, disk_floor_bytes=2**60))
    roomy = create_app(Settings(data_dir=tmp_path, disk_floor_bytes=0))
    async with running(roomy) as client:
        agent = Agent(client)
        await agent.declare()
        await agent.send([frame(1)])
    async with running(full) as client:
        refusing = Agent(client, agent.run_id)
        answer = await refusing.post(batch([frame(2)], oldest=2))
        ready = await client.get("/readyz")
        metrics = (await client.get("/metrics")).text
        shown = await refusing.get()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "disk_full")
    assert "MiB free" in answer.json()["error"]["message"]
    assert (ready.status_code, ready.json()["database"]) == (503, "ok")
    assert "MiB needed" in ready.json()["disk"]
    assert "evenkeel_disk_free_bytes" in metrics
    assert shown["frames"] == 1
