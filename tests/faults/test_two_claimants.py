"""Two real jobs that claim one run: one sends, the other says so once, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.services.polling import eventually
from tests.services.postgres import Postgres
from tests.services.process import Process
from tests.services.redis import Redis
from tests.services.server import ROOT, ServerProcess
from wire import MEDIA_TYPE, FrameBatch, Health, encode_batch

JOB = """
import sys, time, trainer_agent
from pathlib import Path
from tests.trainer_agent.small_gpt import batch, built, train_step

server, folder = sys.argv[1], Path(sys.argv[2])
model, optimizer = built()
agent = trainer_agent.watch(
    model, project="p", run="r", optimizer=optimizer, server=server, spool_dir=folder, every=1,
    resume="one-job", take_over="take-over" in sys.argv,
)
step = 0
while not (folder / "end").exists():
    agent.step(loss=train_step(model, optimizer, batch(step)))
    step += 1
    (folder / "steps").write_text(str(step))
    time.sleep(0.02)
arrived = agent.close(timeout_s=90.0)
(folder / "result").write_text(f"{step} {arrived}")
"""


class Job:
    """A process that trains until it is told to end."""

    def __init__(self, server: str, folder: Path, *flags: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self.log = folder, folder / "log"
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", JOB, server, str(folder), *flags]
        self.process = Process(command, self.log, env)

    async def has_trained(self, steps: int) -> None:
        """Wait until it has taken so many more steps."""
        first = await self._steps()
        await eventually(self._steps, lambda now: now >= first + steps)

    async def _steps(self) -> int:
        assert self.process.alive(), self.log.read_text()
        path = self._folder / "steps"
        return int(path.read_text() or 0) if path.exists() else 0

    async def ends(self) -> int:
        """End it; returns its steps, all of which must have arrived."""
        (self._folder / "end").touch()

        async def result() -> str:
            path = self._folder / "result"
            return path.read_text() if path.exists() else ""

        steps, arrived = (await eventually(result, bool)).split()
        assert arrived == "True", self.log.read_text()
        return int(steps)


async def _one_run(client: httpx.AsyncClient) -> dict:
    (run,) = (await client.get("/api/v1/runs")).json()["runs"]
    return run


async def _heirs(servers: Sequence[ServerProcess], tmp_path: Path) -> None:
    """The second job waits for the first one's end, over a crash of every server."""
    jobs: list[Job] = []
    try:
        async with httpx.AsyncClient(base_url=servers[0].url, timeout=30.0) as client:
            first = Job(servers[0].url, tmp_path / "first")
            jobs.append(first)
            await first.has_trained(20)
            await eventually(lambda: _run_count(client), lambda runs: runs == 1)
            late = Job(servers[-1].url, tmp_path / "late")
            jobs.append(late)

            async def says() -> str:
                return late.log.read_text()

            await eventually(says, lambda text: "server refused" in text)
            for server in servers:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await late.has_trained(20)
            trained = await first.ends() + await late.ends()
            run = await eventually(lambda: _one_run(client), lambda run: run["frames"] >= trained)
    finally:
        for job in jobs:
            job.process.kill()
        for server in servers:
            server.kill()

    text = late.log.read_text()
    assert run["frames"] == trained
    assert text.count("server refused") == 1
    assert f"process {first.process._child.pid} on " in text
    assert "server refused" not in first.log.read_text()


async def _run_count(client: httpx.AsyncClient) -> int:
    return len((await client.get("/api/v1/runs")).json()["runs"])


async def test_second_job_waits_for_the_end_of_the_first_on_sqlite(tmp_path: Path):
    await _heirs([ServerProcess(tmp_path / "server")], tmp_path)


@pytest.mark.services
@pytest.mark.xdist_group("faults")
async def test_second_job_waits_for_the_end_of_the_first_on_two_replicas(
    tmp_path: Path, postgres: Postgres, redis: Redis
):
    redis.empty()
    shared = {"database_url": await postgres.fresh(), "redis_url": redis.url}
    servers = [ServerProcess(tmp_path / name, **shared) for name in ("one", "two")]

    await _heirs(servers, tmp_path)


async def test_a_job_that_takes_over_displaces_the_other(tmp_path: Path):
    server = ServerProcess(tmp_path / "server")
    jobs: list[Job] = []
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
            first = Job(server.url, tmp_path / "first")
            jobs.append(first)
            await first.has_trained(10)
            await eventually(lambda: _run_count(client), lambda runs: runs == 1)
            heir = Job(server.url, tmp_path / "heir", "take-over")
            jobs.append(heir)

            async def says() -> str:
                return first.log.read_text()

            await eventually(says, lambda text: "server refused" in text)
            (run,) = (await client.get("/api/v1/runs")).json()["runs"]
            stale = encode_batch(FrameBatch(0, 1, [], Health(), epoch=1))
            refused = await client.post(
                f"/api/v1/runs/{run['id']}/frames",
                content=stale,
                headers={"content-type": MEDIA_TYPE},
            )
            # The one that was displaced sends what it kept, once the other has ended.
            trained = await heir.ends() + await first.ends()
            run = await eventually(lambda: _one_run(client), lambda run: run["frames"] >= trained)
    finally:
        for job in jobs:
            job.process.kill()
        server.kill()

    assert refused.status_code == 409
    assert run["frames"] == trained
    assert "server refused" not in heir.log.read_text()
