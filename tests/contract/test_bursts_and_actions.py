"""A real agent on a real server: bursts it is asked for, and alerts that it acts on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import trainer_agent
from dashboard.vectors import decode
from server.app import create_app
from server.settings import Settings
from tests.services.polling import DEADLINE_S, eventually
from tests.services.serving import listening
from tests.trainer_agent.small_gpt import batch, built, train_step
from wire import AlertNotice

STEPS = 5000
Loop = Callable[[str, threading.Event], None]


@asynccontextmanager
async def running(embedded: Settings, train: Loop) -> AsyncIterator[httpx.AsyncClient]:
    """A server, and a job that trains against it until the test is over."""
    stop = threading.Event()
    async with (
        listening(create_app(embedded)) as address,
        httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=DEADLINE_S) as client,
    ):
        job = asyncio.create_task(asyncio.to_thread(train, f"http://{address}", stop))
        try:
            yield client
        finally:
            stop.set()
            await job


async def the_run(client: httpx.AsyncClient) -> dict[str, Any]:
    """The one run of the server, once it has a frame."""

    async def runs() -> list[dict[str, Any]]:
        return list((await client.get("/runs")).json()["runs"])

    runs_listed = await eventually(
        runs, lambda runs_listed: bool(runs_listed and runs_listed[0]["frames"])
    )
    return runs_listed[0]


async def test_a_burst_brings_every_step_of_the_named_layers(embedded: Settings, tmp_path: Path):
    def train(url: str, stop: threading.Event) -> None:
        model, optimizer = built()
        options = {"project": "p", "run": "r", "server": url, "spool_dir": tmp_path / "spool"}
        with trainer_agent.watch(model, optimizer=optimizer, every=1_000_000, **options) as agent:
            for step in range(STEPS):
                agent.step(loss=train_step(model, optimizer, batch(step)))
                if stop.wait(0.02):  # it is asked seconds later, and has nothing to do till then
                    return

    async with running(embedded, train) as client:
        run = await the_run(client)
        request = {"steps": 6, "layers": [1, 2]}
        assert (await client.post(f"/runs/{run['id']}/burst", json=request)).status_code == 202

        async def steps() -> list[int]:
            return list((await client.get(f"/runs/{run['id']}/steps")).json()["steps"])

        sampled = await eventually(steps, lambda sampled: len(sampled) >= 7)
        profile = (await client.get(f"/runs/{run['id']}/profile")).json()
        detail = (await client.get(f"/runs/{run['id']}")).json()

    first = sampled[1]
    assert sampled == [0, *range(first, first + 6)]
    variance = decode(profile["stacks"]["decoder"]["series"]["stream/variance_f32"])
    assert np.isfinite(variance).tolist() == [False, True, True, False]
    assert detail["health"]["0"]["burst"] and detail["alerts"] == {"critical": 0, "warning": 0}


async def test_a_critical_alert_stops_the_loop(embedded: Settings, tmp_path: Path):
    heard: list[AlertNotice] = []
    ended: dict[str, Any] = {}

    def train(url: str, stop: threading.Event) -> None:
        model, optimizer = built()
        options = {"project": "p", "run": "r", "server": url, "spool_dir": tmp_path / "spool"}
        actions = [heard.append, "stop", "checkpoint"]
        agent = trainer_agent.watch(
            model, optimizer=optimizer, every=5, on_alert=actions, **options
        )
        with agent:
            for step in range(STEPS):
                loss = train_step(model, optimizer, batch(step))
                agent.step(loss=float("nan") if step >= 20 else loss)
                if agent.should_stop or stop.wait(0.005):
                    break
        ended.update(step=step, stopped=agent.should_stop, reason=agent.stop_reason)
        ended.update(save=agent.should_save)

    async with running(embedded, train) as client:
        run = await the_run(client)

        async def status() -> str:
            return str((await client.get(f"/runs/{run['id']}")).json()["status"])

        await eventually(status, lambda status_now: status_now == "finished" or bool(ended))

    assert ended["stopped"] and ended["save"] and 20 <= ended["step"] < STEPS - 1
    assert ended["reason"].startswith("The loss is NaN")
    assert [notice.rule for notice in heard] == ["nonfinite"]


async def test_a_critical_alert_brings_a_burst_of_32_steps(embedded: Settings, tmp_path: Path):
    def train(url: str, stop: threading.Event) -> None:
        model, optimizer = built()
        options = {"project": "p", "run": "r", "server": url, "spool_dir": tmp_path / "spool"}
        with trainer_agent.watch(model, optimizer=optimizer, every=100, **options) as agent:
            for step in range(STEPS):
                loss = train_step(model, optimizer, batch(step))
                agent.step(loss=float("nan") if step >= 100 else loss)
                if stop.wait(0.005):
                    return

    async with running(embedded, train) as client:
        run = await the_run(client)

        async def in_bursts() -> list[int]:
            steps = (await client.get(f"/runs/{run['id']}/steps")).json()["steps"]
            return [step for step in steps if step % 100]

        burst_steps = await eventually(in_bursts, lambda burst_steps: len(burst_steps) >= 31)

    # one of the 32 may be a hundredth step, which is sampled for its own sake
    assert burst_steps[30] - burst_steps[0] in (30, 31)
