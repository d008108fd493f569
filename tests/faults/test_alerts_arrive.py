"""An alert that waits for its receiver outlives the server, however that ends."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from tests.services.postgres import Postgres
from tests.services.process import free_port
from tests.services.receiver import Receiver, listening, receiving
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


async def test_delivery_in_flight_at_the_end_of_a_server_is_waited_for_and_sent_once(
    tmp_path: Path,
):
    asked, may_answer = asyncio.Event(), asyncio.Event()
    receiver = Receiver()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        await receiver.answer(reader, writer)

    async with listening(slowly) as port:
        webhooks = f'["http://127.0.0.1:{port}/hook"]'
        server = ServerProcess(tmp_path / "server", webhooks=webhooks)
        try:
            await _raise_alert(server)
            await asked.wait()
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            await _until_it_refuses(server)
            may_answer.set()
            await stopping
            await asyncio.to_thread(server.start)
            await _all_arrived(server, 1)
        finally:
            server.kill()

    assert len(receiver.requests) == 1


async def test_delivery_that_nobody_answers_leaves_no_lease_behind(tmp_path: Path):
    asked, ended = asyncio.Event(), asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await ended.wait()

    async with listening(never) as port:
        webhooks = f'["http://127.0.0.1:{port}/hook"]'
        server = ServerProcess(tmp_path / "server", webhooks=webhooks)
        try:
            await _raise_alert(server)
            await asked.wait()
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
            ended.set()

    with closing(sqlite3.connect(tmp_path / "server" / "data" / "evenkeel.db")) as database:
        rows = database.execute("SELECT leased_by, leased_until FROM delivery_targets").fetchall()
    assert rows == [("", 0.0)]


async def _raise_alert(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        agent = Agent(client)
        await agent.declare()
        await agent.send([frame(1), frame(2, values=vector(2, loss=math.nan))])


async def _until_it_refuses(server: ServerProcess) -> None:
    async def refuses() -> bool:
        async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
            try:
                await client.get("/healthz")
            except httpx.TransportError:
                return True
        return False

    await eventually(refuses, bool)


async def _limited_channel(server: ServerProcess, url: str) -> None:
    """A channel that takes one message an hour."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        limit = {"most": 1, "window_s": 3600.0}
        channel = {"name": "On call", "url": url, "limit": limit}
        (await client.post("/api/v1/channels", json=channel)).raise_for_status()


async def test_messages_that_a_channel_holds_arrive_in_a_digest_after_a_crash(tmp_path: Path):
    async with receiving() as receiver:
        server = ServerProcess(tmp_path / "server")
        try:
            await _limited_channel(server, receiver.url)
            for _ in range(3):
                await _raise_alert(server)
            await receiver.until(1)
            await _held(server, 2)
            await asyncio.to_thread(server.kill)
            with closing(sqlite3.connect(tmp_path / "server" / "data" / "evenkeel.db")) as database:
                database.execute("UPDATE deliveries SET ended_at = ended_at - 3600")  # an hour ago
                database.commit()
            await asyncio.to_thread(server.start)
            (_, digest) = await receiver.until(2)
        finally:
            server.kill()

    assert digest.json["kind"] == "digest"
    assert len(digest.json["messages"]) == 2


async def _held(server: ServerProcess, count: int) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:

        async def held() -> int:
            rows = (await client.get("/api/v1/deliveries")).json()["deliveries"]
            return sum(row["held"] for row in rows)

        await eventually(held, lambda held: held == count)
