"""A real agent on a real server: asked on the page, the job describes itself as it now is."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx

import trainer_agent
from server.app import create_app
from server.settings import Settings
from tests.services.polling import DEADLINE_S, eventually
from tests.services.serving import listening
from tests.trainer_agent.small_gpt import batch, built, train_step


def train(address: str, folder: Path, started: dict[str, str], stop: threading.Event) -> None:
    """A job that trains until it is told to stop."""
    model, optimizer = built()
    with trainer_agent.watch(
        model,
        project="p",
        run="r",
        optimizer=optimizer,
        every=1,
        server=f"http://{address}",
        spool_dir=folder,
    ) as agent:
        started["run"] = agent.run_id
        step = 0
        while not stop.wait(0.01) and step < 5000:
            agent.step(loss=train_step(model, optimizer, batch(step)))
            step += 1


async def test_a_job_that_is_asked_describes_todays_weights(embedded: Settings, tmp_path: Path):
    started: dict[str, str] = {}
    stop = threading.Event()
    async with (
        listening(create_app(embedded)) as address,
        httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=DEADLINE_S) as client,
    ):
        job = asyncio.create_task(
            asyncio.to_thread(train, address, tmp_path / "spool", started, stop)
        )

        async def revisions() -> list[dict[str, Any]]:
            answer = await client.get(f"/runs/{started.get('run', '0' * 32)}/predictions")
            return answer.json().get("revisions", []) if answer.status_code == 200 else []

        try:
            await eventually(revisions, lambda rows: any(r["state"] == "ready" for r in rows))
            before = {revision["step"] for revision in await revisions()}
            await client.post(f"/runs/{started['run']}/describe")
            described = await eventually(
                revisions,
                lambda described: any(
                    r["step"] not in before and r["state"] == "ready" for r in described
                ),
            )
        finally:
            stop.set()
            await job

    assert described[0]["label"] == "at initialisation"
    assert described[-1]["label"] == "from today's weights" and described[-1]["step"] > 0
