"""A real job that is killed and goes on from its checkpoint: one run, its later steps shown."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from fastapi import FastAPI

from tests.services.polling import DEADLINE_S, eventually
from tests.services.serving import listening

# Both processes of the job are forked from this one, which trains nothing, so that torch is
# loaded once.
JOB = """
import os, signal, sys, torch, trainer_agent
from tests.trainer_agent.small_gpt import batch, built, train_step

server, folder = sys.argv[1], sys.argv[2]
checkpoint = os.path.join(folder, "checkpoint")

def train(last):
    model, optimizer = built()
    agent = trainer_agent.watch(
        model, project="p", run="r", optimizer=optimizer, server=server, spool_dir=folder, every=1
    )
    first = 0
    if os.path.exists(checkpoint):
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        agent.load_state_dict(saved["evenkeel"])
        first = saved["evenkeel"]["step"]
    for step in range(first, last):
        agent.step(loss=train_step(model, optimizer, batch(step)))
        if step == 5:
            torch.save({"model": model.state_dict(), "evenkeel": agent.state_dict()}, checkpoint)
    if first:
        agent.close(timeout_s=60.0)
    else:
        agent.state_dict()  # waits until every frame is on the disk
        os.kill(os.getpid(), signal.SIGKILL)

for last in (12, 9):
    child = os.fork()
    if not child:
        train(last)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ROOT = Path(__file__).parents[2]


def train_twice(address: str, folder: Path) -> list[int]:
    """Run the job until it is killed, and again to its end; returns the exit codes."""
    command = [sys.executable, "-W", "ignore", "-c", JOB, f"http://{address}", str(folder)]
    job = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=150
    )
    return [int(line) for line in job.stdout.splitlines() if line.lstrip("-").isdigit()]


async def test_a_killed_job_goes_on_with_its_run(app: FastAPI, tmp_path: Path):
    async with (
        listening(app) as address,
        httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=DEADLINE_S) as client,
    ):
        exit_codes = await asyncio.to_thread(train_twice, address, tmp_path)

        async def runs() -> list[dict[str, object]]:
            return (await client.get("/runs")).json()["runs"]

        (run,) = await eventually(
            runs, lambda listed: [r["status"] for r in listed] == ["finished"]
        )
        detail = (await client.get(f"/runs/{run['id']}")).json()
        steps = (await client.get(f"/runs/{run['id']}/steps")).json()["steps"]

    assert exit_codes == [-signal.SIGKILL, 0]
    assert steps == list(range(9))
    assert detail["last_step"] == 8 and detail["health"]["0"]["dropped"] == 0
    assert detail["superseded"] == [[6, 8]]  # what the killed process had gone on to record
