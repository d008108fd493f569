from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.events import FrameEvent
from server.live.queue import ConflatingQueue
from tests.services.agent import LAYOUT, Agent, frame, vector
from tests.services.polling import DEADLINE_S
from tests.services.serving import listening
from tests.services.vectors import from_f32
from wire import Layout, Series

WAIT_S = 20


@dataclass
class Live:
    """A served app: an agent's client for it, and its address."""

    client: httpx.AsyncClient
    address: str

    @asynccontextmanager
    async def page(self, *runs: str) -> AsyncIterator[ClientConnection]:
        """A page that is open, past its hello."""
        query = f"?runs={','.join(runs)}" if runs else ""
        url = f"ws://{self.address}/api/v1/live{query}"
        async with connect(url, open_timeout=DEADLINE_S) as socket:
            assert json.loads(await socket.recv())["type"] == "hello"
            yield socket


@pytest.fixture
async def live(app: FastAPI) -> AsyncIterator[Live]:
    async with (
        listening(app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE_S) as client,
    ):
        yield Live(client, address)


async def _next(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_S):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] == kind:
                return message


async def test_committed_frame_reaches_an_open_page(live: Live):
    agent = Agent(live.client)
    await agent.declare()

    async with live.page(agent.run_id) as socket:
        await agent.send([frame(1, 40, values=vector(40, loss=float("nan")))])
        message = await _next(socket, "frame")

    assert (message["run"], message["step"], message["skipped"]) == (agent.run_id, 40, 0)
    assert message["scalars"]["loss"] == "NaN"
    measured = from_f32(message["series_f32"]["decoder/stream/variance"])
    assert measured.tolist() == vector(40)[LAYOUT.slices["decoder/stream/variance"]].tolist()


async def test_page_gets_the_newest_state_and_how_many_it_skipped(live: Live):
    agent = Agent(live.client)
    await agent.declare()

    async with live.page(agent.run_id) as socket:
        for seq in range(1, 61):
            await agent.send([frame(seq)])
        shown, last = 0, 0
        while shown < 60:
            message = await _next(socket, "frame")
            shown += 1 + message["skipped"]
            last = message["step"]

    assert (shown, last) == (60, 60)


async def test_run_list_hears_of_runs_and_not_of_frames(live: Live):
    agent = Agent(live.client)

    async with live.page() as socket:
        await agent.declare(name="fresh")
        first = await _next(socket, "run")
        await agent.send([frame(1, 3)])
        while (message := await _next(socket, "run"))["run"]["last_step"] != 3:
            assert message["type"] != "frame"

    assert first["run"]["name"] == "fresh"
    assert message["run"]["frames"] == 1


async def test_frame_message_of_48_layers_stays_within_5_kb(live: Live):
    deep = [
        Series("decoder", site, quantity, 49)
        for site in ("stream", "stream_gradient")
        for quantity in ("mean", "variance", "correlation", "nonfinite")
    ]
    scalars = [Series("", site, "value", 1) for site in ("loss", "learning_rate")]
    layout = Layout((*deep, *scalars))
    agent = Agent(live.client)
    await agent.declare(layout=layout)
    values = np.random.default_rng(0).random(layout.size, dtype=np.float32)

    async with live.page(agent.run_id) as socket:
        await agent.send([frame(1, values=values, layout=layout.hash)])
        message = await _next(socket, "frame")

    assert len(json.dumps(message)) <= 5_000
    assert len(message["series_f32"]) == 3


async def test_run_that_is_not_there_closes_the_page(live: Live):
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        async with live.page("0" * 32):
            pass


async def test_page_of_another_site_is_refused(live: Live):
    url = f"ws://{live.address}/api/v1/live"

    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, origin="http://evil.example"):  # type: ignore[arg-type]
            pass

    assert refused.value.response.status_code == 403


async def test_box_of_a_slow_page_holds_one_frame_of_a_run():
    queue = ConflatingQueue(frozenset({"r"}), None)
    for step in range(100):
        queue.put_frame(FrameEvent("r", step, 0.0, "", b"", skipped=2))

    ((message, skipped),) = await queue.take(0.0)

    assert isinstance(message, FrameEvent)
    assert (message.step, skipped) == (99, 99 + 200)
