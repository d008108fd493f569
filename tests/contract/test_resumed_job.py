"""A real job that is killed and goes on from its checkpoint: one run, its later steps shown."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from fastapi import FastAPI

from tests.services.polling import eventually
from tests.services.serving import listening

JOB = """
import os, signal, sys, torch, trainer_agent
from tests.trainer_agent.small_gpt import batch, built, train_step

server, folder, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
kept = os.path.join(folder, "checkpoint")
model, optimizer = built()
agent = trainer_agent.watch(
    model, project="p", run="r", optimizer=optimizer, server=server, spool_dir=folder, every=1
)
first = 0
if os.path.exists(kept):
    saved = torch.load(kept)
    model.load_state_dict(saved["model"])
    agent.load_state_dict(saved["evenkeel"])
    first = saved["evenkeel"]["step"]
for step in range(first, last):
    agent.step(loss=train_step(model, optimizer, batch(step)))
    if step == 5:
        torch.save({"model": model.state_dict(), "evenkeel": agent.state_dict()}, kept)
if first:
    agent.close(timeout_s=60.0)
else:
    agent.state_dict()  # waits until every frame is on the disk
    os.kill(os.getpid(), signal.SIGKILL)
"""
ROOT = Path(__file__).parents[2]


def job(address: str, folder: Path, last: int) -> int:
    """Run the job to its end; returns its exit code."""
    command = [sys.executable, "-c", JOB, f"http://{address}", str(folder), str(last)]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode


async def test_a_killed_job_goes_on_with_its_run(app: FastAPI, tmp_path: Path):
    async with (
        listening(app) as address,
        httpx.AsyncClient(base_url=f"http://{address}/api/v1") as client,
    ):
        killed = await asyncio.to_thread(job, address, tmp_path, 12)
        finished = await asyncio.to_thread(job, address, tmp_path, 9)

        async def runs() -> list[dict[str, object]]:
            return (await client.get("/runs")).json()["runs"]

        (run,) = await eventually(
            runs, lambda listed: [r["status"] for r in listed] == ["finished"]
        )
        detail = (await client.get(f"/runs/{run['id']}")).json()
        steps = (await client.get(f"/runs/{run['id']}/steps")).json()["steps"]

    assert (killed, finished) == (-signal.SIGKILL, 0)
    assert steps == list(range(9))
    assert detail["last_step"] == 8 and detail["health"]["0"]["dropped"] == 0
    assert detail["superseded"] == [[6, 8]]  # what the killed process had gone on to record
