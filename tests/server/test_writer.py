"""The writer between bus and database: what cannot be stored is dropped, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from server import migration
from server.app import create_app
from server.app_state import AppState
from server.bus.protocol import FRAMES
from server.ingest.writer import write
from server.settings import Settings
from tests.services.agent import Agent, batch, frame
from tests.services.serving import LOCAL

CAPACITY = 8


@dataclass
class Idle:
    """A server without its workers: what is put on the bus stays there until the test writes."""

    state: AppState
    client: httpx.AsyncClient

    async def agent(self) -> Agent:
        agent = Agent(self.client)
        await agent.declare()
        return agent

    async def put(self, run_id: str, body: bytes) -> None:
        await self.state.bus.append(FRAMES, run_id, body, received_at=1_000.0)

    async def write_all(self) -> None:
        while await self.state.bus.pending(FRAMES):
            await write(self.state)

    def counted(self, name: str) -> float:
        return self.state.metrics.registry.get_sample_value(f"evenkeel_{name}_total") or 0.0


@pytest.fixture
async def idle(settings: Settings) -> AsyncIterator[Idle]:
    app = create_app(settings.model_copy(update={"bus_entries": CAPACITY}))
    state: AppState = app.state.server
    await migration.prepare(state.settings, state.database)
    await write(state)  # on Redis, makes the group that reads the stream
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=LOCAL, timeout=60.0) as client:
        yield Idle(state, client)
    await state.bus.close()
    await state.database.close()


async def test_unreadable_message_is_counted_once_and_the_others_are_stored(idle: Idle):
    agent = await idle.agent()
    await idle.put(agent.run_id, batch([frame(1)]))
    await idle.put(agent.run_id, b"\xc1 of another version")
    await idle.put(agent.run_id, batch([frame(2)]))

    await idle.write_all()

    assert (await agent.get("/steps"))["steps"] == [1, 2]
    assert (idle.counted("entries_rejected"), idle.counted("frames_committed")) == (1, 2)


async def test_batch_that_the_database_refuses_is_dropped_and_the_others_are_stored(idle: Idle):
    first, second = await idle.agent(), await idle.agent()
    too_large = batch([frame(2**63, 7)])  # for the column; the endpoint would have refused it
    await idle.put(first.run_id, batch([frame(1)]))
    await idle.put(first.run_id, too_large)
    await idle.put(second.run_id, batch([frame(1), frame(2)]))
    await idle.put(first.run_id, batch([frame(2)]))

    await idle.write_all()

    assert (await first.get("/steps"))["steps"] == [1, 2]
    assert (await second.get("/steps"))["steps"] == [1, 2]
    assert (idle.counted("entries_rejected"), idle.counted("frames_committed")) == (1, 4)


async def test_text_that_only_one_database_stores_holds_up_nobody(idle: Idle):
    agent = await idle.agent()
    await idle.put(agent.run_id, batch([frame(1)]))
    await idle.put(agent.run_id, batch([frame(2)], first_failure="torn\0text"))  # not in Postgres
    await idle.put(agent.run_id, batch([frame(3)]))

    await idle.write_all()

    assert {1, 3} <= set((await agent.get("/steps"))["steps"])


async def test_batch_of_a_run_that_is_not_there_is_dropped_and_counted(idle: Idle):
    agent = await idle.agent()
    await idle.put("f" * 32, batch([frame(1)]))
    await idle.put(agent.run_id, batch([frame(1)]))

    await idle.write_all()

    assert (await agent.get("/steps"))["steps"] == [1]
    assert idle.counted("entries_rejected") == 1


async def test_full_bus_is_answered_503_and_takes_frames_again_once_it_is_read(idle: Idle):
    agent = await idle.agent()
    for seq in range(1, CAPACITY + 1):
        await idle.put(agent.run_id, batch([frame(seq)]))

    refused = await agent.post(batch([frame(CAPACITY + 1)]))
    await idle.write_all()
    sending = asyncio.create_task(agent.post(batch([frame(CAPACITY + 1)])))
    while not await idle.state.bus.pending(FRAMES):
        await asyncio.sleep(0)
    await idle.write_all()
    taken = await sending

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert "writer is behind" in refused.json()["error"]["message"]
    assert taken.status_code == 200
    assert (await agent.get("/steps"))["steps"] == list(range(1, CAPACITY + 2))
