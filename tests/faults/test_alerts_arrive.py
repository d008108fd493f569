"""An alert that waits for its receiver outlives the server, however that ends."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import httpx
import pytest

from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from tests.services.postgres import Postgres
from tests.services.process import free_port
from tests.services.receiver import Receiver, receiving
from tests.services.redis import Redis
from tests.services.server import ServerProcess


async def _alert_and_wait(server: ServerProcess) -> dict[str, object]:
    """Raise an alert, and wait until its delivery was tried; returns that."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        agent = Agent(client)
        await agent.declare()
        await agent.send([frame(1), frame(2, values=vector(2, loss=math.nan))])

        async def deliveries() -> list[dict[str, object]]:
            return (await client.get("/api/v1/deliveries")).json()["deliveries"]

        rows = await eventually(deliveries, lambda rows: rows and rows[0]["attempts"])
    return rows[0]


async def _arrives_after(server: ServerProcess, port: int, signal: str) -> None:
    """End the server while an alert waits; once it and the receiver are back, it arrives."""
    try:
        waiting = await _alert_and_wait(server)
        assert waiting["status"] == "pending"
        await asyncio.to_thread(getattr(server, signal))
        async with receiving(port=port) as receiver:
            await asyncio.to_thread(server.start)
            await _arrived(server, receiver, str(waiting["id"]))
    finally:
        server.kill()


async def _arrived(server: ServerProcess, receiver: Receiver, key: str) -> None:
    (request, *others) = await receiver.until(1)
    assert (request.key, others) == (key, [])
    assert request.json["severity"] == "critical"

    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:

        async def status() -> str:
            rows = (await client.get("/api/v1/deliveries")).json()["deliveries"]
            return "".join(row["status"] for row in rows)

        await eventually(status, lambda statuses: statuses == "delivered")


@pytest.mark.parametrize("signal", ["kill", "stop"])
async def test_waiting_alert_arrives_after_the_server_was_ended_on_sqlite(
    tmp_path: Path, signal: str
):
    port = free_port()
    webhooks = f'["http://127.0.0.1:{port}/hook"]'
    server = ServerProcess(tmp_path / "server", webhooks=webhooks)

    await _arrives_after(server, port, signal)


@pytest.mark.services
@pytest.mark.xdist_group("faults")
async def test_waiting_alert_arrives_after_a_crash_on_postgres_and_redis(
    tmp_path: Path, postgres: Postgres, redis: Redis
):
    redis.empty()
    port = free_port()
    server = ServerProcess(
        tmp_path / "server",
        database_url=await postgres.fresh(),
        redis_url=redis.url,
        webhooks=f'["http://127.0.0.1:{port}/hook"]',
    )

    await _arrives_after(server, port, "kill")


@pytest.mark.services
@pytest.mark.xdist_group("faults")
async def test_alert_of_two_servers_is_sent_by_one_of_them(
    tmp_path: Path, postgres: Postgres, redis: Redis
):
    redis.empty()
    async with receiving() as receiver:
        shared = {
            "database_url": await postgres.fresh(),
            "redis_url": redis.url,
            "webhooks": f'["{receiver.url}"]',
        }
        servers = [ServerProcess(tmp_path / name, **shared) for name in ("one", "two")]
        try:
            for server in servers:
                await _alert_and_wait(server)
            await _all_arrived(servers[0], 2)
        finally:
            for server in servers:
                server.kill()

    assert len({request.key for request in receiver.requests}) == len(receiver.requests) == 2


async def _all_arrived(server: ServerProcess, count: int) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:

        async def delivered() -> int:
            answer = await client.get("/api/v1/deliveries", params={"status": "delivered"})
            return len(answer.json()["deliveries"])

        await eventually(delivered, lambda delivered: delivered == count)
