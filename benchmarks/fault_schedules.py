"""Random schedules of faults against a real server: nothing acknowledged is lost, doubled, changed.

    python -m benchmarks.fault_schedules [--schedules 20] [--seed 0] [--only sqlite|replicas]

A schedule is drawn from its seed: agents send frames over several batches, sometimes twice, out of
order or cut off in mid-body, while servers are killed and stopped for a moment (SIGSTOP), Redis is
emptied, and a second claimant takes a run over and gives it back. Every frame that an answer has
acknowledged must be stored with its bytes, once; of each run's NaN there is one alert, and at least
one webhook. What fails is printed with its seed: ``--seed N --schedules 1`` repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import Database, connect
from server.storage.codec import unpack, unpack_series
from server.tables import blocks, chunks
from server.tables import frames as frames_table
from tests.services.agent import LAYOUT, frame, vector
from tests.services.postgres import Postgres
from tests.services.receiver import Receiver, receiving
from tests.services.redis import Redis
from tests.services.server import ServerProcess
from wire import MEDIA_TYPE, Frame, FrameBatch, Health, RunDeclaration, Writer, encode_batch

FRAMES = 60
AGENTS = 3
PATIENCE_S = 180.0
# Frames stay rows: a schedule may last longer than the minute after which an ended run is packed.
UNPACKED = {"lost_contact_s": "3600"}
FAULTS = ("kill", "stop", "take over", "empty redis")


@dataclass
class Claimant:
    """One process that sends as rank 0 of a run, and keeps what is not acknowledged.

    Attributes:
        frames: what it sends, by `seq`.
        acknowledged: the highest watermark that it was told.
    """

    run_id: str
    frames: dict[int, Frame]
    random: random.Random
    servers: Sequence[ServerProcess]
    writer: str = field(default_factory=lambda: uuid.uuid4().hex)
    take_over: bool = False
    epoch: int = 0
    acknowledged: int = 0
    declared: bool = False
    refusals: int = 0

    async def run(self) -> None:
        """Send until everything is acknowledged."""
        ends_at = time.monotonic() + PATIENCE_S
        while self.acknowledged < max(self.frames):
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{self.run_id} stands at {self.acknowledged}")
            with suppress(httpx.HTTPError, OSError):
                await self._turn()
            await asyncio.sleep(self.random.uniform(0.0, 0.03))
        await self._leave(ends_at)

    async def _leave(self, ends_at: float) -> None:
        """End the run, so that another claimant need not wait until the lease has run out."""
        ending = {"status": "finished", "rank": 0, "epoch": self.epoch}
        while time.monotonic() < ends_at:
            with suppress(httpx.HTTPError, OSError):
                url = f"{self.random.choice(self.servers).url}/api/v1/runs/{self.run_id}/end"
                async with httpx.AsyncClient(timeout=5.0) as client:
                    if (await client.post(url, json=ending)).status_code in (204, 409):
                        return
            await asyncio.sleep(0.05)

    async def _turn(self) -> None:
        server = self.random.choice(self.servers)
        async with httpx.AsyncClient(base_url=server.url, timeout=5.0) as client:
            if not self.declared:
                await self._declare(client)
            elif self.random.random() < 0.1:
                await self._cut_off(server)
            else:
                await self._send(client)

    async def _declare(self, client: httpx.AsyncClient) -> None:
        writer = Writer(self.writer, "bench", 1, 1.0, take_over=self.take_over)
        message = RunDeclaration("faults", "run", LAYOUT, writer=writer)
        answer = await client.put(
            f"/api/v1/runs/{self.run_id}", content=msgspec.json.encode(message)
        )
        if answer.status_code == 200:
            self.declared, self.take_over = True, False
            self.epoch = answer.json()["epoch"]
        elif answer.status_code == 409:
            self.refusals += 1
            await asyncio.sleep(0.3)

    def _batch(self) -> bytes:
        waiting = [seq for seq in sorted(self.frames) if seq > self.acknowledged]
        # Now and then what follows a gap, or what was acknowledged already.
        first = self.random.choice((0, 0, 0, self.random.randrange(len(waiting))))
        seqs = waiting[first : first + self.random.randrange(1, 12)]
        known = [seq for seq in sorted(self.frames) if seq <= self.acknowledged]
        if self.random.random() < 0.2:
            seqs = [*known[-3:], *seqs]
        oldest = min(seqs[0], waiting[0])
        return encode_batch(
            FrameBatch(0, oldest, [self.frames[seq] for seq in seqs], Health(), epoch=self.epoch)
        )

    async def _send(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(
            f"/api/v1/runs/{self.run_id}/frames",
            content=self._batch(),
            headers={"content-type": MEDIA_TYPE},
        )
        if answer.status_code == 200:
            self.acknowledged = max(self.acknowledged, int(answer.json()["durable"]))
        elif answer.status_code == 409:
            self.declared = False
        elif answer.status_code < 500:
            raise AssertionError(f"{answer.status_code}: {answer.text}")

    async def _cut_off(self, server: ServerProcess) -> None:
        """Send half of a body, and reset the connection."""
        body = self._batch()
        _, stream = await asyncio.open_connection("127.0.0.1", server.port)
        head = (
            f"POST /api/v1/runs/{self.run_id}/frames HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        stream.write(head.encode() + body[: len(body) // 2])
        await stream.drain()
        stream.transport.abort()


def _frames(first: int, count: int, *, broken_at: int | None, salt: int) -> dict[int, Frame]:
    frames = {}
    for n in range(count):
        loss = math.nan if n == broken_at else 1.0 + salt
        frames[first + n] = frame(first + n, n, values=vector(n + salt, loss=loss))
    return frames


async def _disturb(
    servers: Sequence[ServerProcess],
    redis: Redis | None,
    draw: random.Random,
    ending: asyncio.Event,
) -> list[str]:
    """Faults at random times until the agents are done; returns what was done."""
    done: list[str] = []
    while not ending.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), draw.uniform(1.0, 4.0))
        fault, server = draw.choice(FAULTS), draw.choice(servers)
        if fault == "kill":
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        elif fault == "stop":
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(draw.uniform(0.1, 1.5))
            server.signal(signal.SIGCONT)
        elif fault == "empty redis" and redis is not None:
            redis.empty()
        else:
            continue
        done.append(fault)
    return done


async def schedule(
    seed: int, servers: Sequence[ServerProcess], redis: Redis | None, receiver: Receiver
) -> str:
    """Run one schedule; returns what was done, and raises `AssertionError` for what was lost."""
    draw = random.Random(seed)
    claimants = []
    for _ in range(AGENTS):
        run_id = f"{draw.getrandbits(128):032x}"
        broken = draw.randrange(FRAMES)
        frames = _frames(1, FRAMES, broken_at=broken, salt=0)
        claimants.append(Claimant(run_id, frames, random.Random(draw.random()), servers))
    # A second process claims the first run, under numbers of its own.
    rival = Claimant(
        claimants[0].run_id,
        _frames(10**6, FRAMES // 2, broken_at=None, salt=7),
        random.Random(draw.random()),
        servers,
        take_over=draw.random() < 0.5,
    )
    ending = asyncio.Event()
    disturbing = asyncio.create_task(_disturb(servers, redis, draw, ending))
    try:
        await asyncio.gather(*(each.run() for each in (*claimants, rival)))
    finally:
        ending.set()
        faults = await disturbing
    expected: dict[str, dict[int, Frame]] = {}
    for each in (*claimants, rival):
        expected.setdefault(each.run_id, {}).update(each.frames)
    # What a process that was displaced kept is stored later, below what is judged already.
    judged = [each.run_id for each in claimants[1:]]
    await _verify(servers[-1], expected, judged, receiver)
    return f"{len(faults)} faults, {rival.refusals + claimants[0].refusals} claims refused"


async def _verify(
    server: ServerProcess,
    expected: dict[str, dict[int, Frame]],
    judged: Sequence[str],
    receiver: Receiver,
) -> None:
    database = connect(server.database_url)
    try:
        for run_id, frames in expected.items():
            stored = await _settled(database, run_id, len(frames))
            assert stored.keys() == frames.keys(), f"{run_id}: {stored.keys() ^ frames.keys()}"
            for seq, made in frames.items():
                assert stored[seq] == made.values, f"{run_id}: frame {seq} has changed"
    finally:
        await database.close()
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        for run_id in judged:
            await _alerted(client, run_id, receiver)


async def _settled(database: Database, run_id: str, count: int) -> dict[int, bytes]:
    """The run's stored frames by `seq`, once there are as many as were sent."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        async with database.reading() as session:
            rows = [*await _hot(session, run_id), *await _packed(session, run_id)]
        assert len({seq for seq, _ in rows}) == len(rows), f"{run_id}: a frame is there twice"
        if len(rows) >= count or time.monotonic() > ends_at:
            return dict(rows)
        await asyncio.sleep(0.1)


async def _hot(session: AsyncSession, run_id: str) -> list[tuple[int, bytes]]:
    query = select(frames_table.c.seq, frames_table.c["values"])
    rows = (await session.execute(query.where(frames_table.c.run_id == run_id))).all()
    return [(seq, bytes(values)) for seq, values in rows]


async def _packed(session: AsyncSession, run_id: str) -> list[tuple[int, bytes]]:
    """The frames in segments: numbers that jump, as those of a second process, soon are in one."""
    rows: list[tuple[int, bytes]] = []
    query = select(blocks.c.first_seq, blocks.c.n, blocks.c.seqs)
    for first, n, seqs in (await session.execute(query.where(blocks.c.run_id == run_id))).all():
        of_segment = (chunks.c.run_id == run_id, chunks.c.first_seq == first, chunks.c.level == 0)
        data = await session.execute(select(chunks.c.series, chunks.c.data).where(*of_segment))
        series = {key: unpack_series(packed, n) for key, packed in data.all()}
        values = np.concatenate([series[key] for key in LAYOUT.slices], axis=1)
        numbers = unpack(seqs, "<i8").tolist()
        rows += [(seq, row.tobytes()) for seq, row in zip(numbers, values, strict=True)]
    return rows


async def _alerted(client: httpx.AsyncClient, run_id: str, receiver: Receiver) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        answer = await client.get("/api/v1/alerts", params={"run": run_id, "limit": 200})
        rows = [a for a in answer.json()["alerts"] if a["rule"] == "nonfinite"]
        told = any(run_id in request.body.decode() for request in receiver.requests)
        if rows and told:
            assert len(rows) == 1, f"{run_id}: {len(rows)} alerts of one NaN"
            return
        assert time.monotonic() < ends_at, f"{run_id}: alerts {len(rows)}, webhook {told}"
        await asyncio.sleep(0.1)


async def _on_sqlite(seed: int, folder: Path, receiver: Receiver) -> str:
    server = ServerProcess(folder / "server", **UNPACKED, webhooks=f'["{receiver.url}"]')
    try:
        return await schedule(seed, [server], None, receiver)
    finally:
        server.kill()


async def _on_replicas(
    seed: int, folder: Path, receiver: Receiver, postgres: Postgres, redis: Redis
) -> str:
    redis.empty()
    shared = {
        **UNPACKED,
        "database_url": await postgres.fresh(),
        "redis_url": redis.url,
        "webhooks": f'["{receiver.url}"]',
    }
    servers = [ServerProcess(folder / name, **shared) for name in ("one", "two")]
    try:
        return await schedule(seed, servers, redis, receiver)
    finally:
        for server in servers:
            server.kill()


async def _one(kind: str, seed: int, services: tuple[Postgres, Redis] | None) -> bool:
    """Run a schedule and print its line; returns whether nothing was lost."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with receiving() as receiver:
            try:
                if services is None:
                    said = await _on_sqlite(seed, Path(folder), receiver)
                else:
                    said = await _on_replicas(seed, Path(folder), receiver, *services)
            except (AssertionError, TimeoutError) as error:
                print(f"{kind} seed {seed}: LOST: {error}", flush=True)
                return False
    print(f"{kind} seed {seed}: ok, {said}, {time.monotonic() - started:.0f} s", flush=True)
    return True


async def _all(options: argparse.Namespace) -> bool:
    seeds = range(options.seed, options.seed + options.schedules)
    results = []
    if options.only != "replicas":
        results += [await _one("sqlite", seed, None) for seed in seeds]
    if options.only != "sqlite":
        services = Postgres(), Redis()
        try:
            results += [await _one("replicas", seed, services) for seed in seeds]
        finally:
            for service in services:
                service.close()
    print(f"{sum(results)} of {len(results)} schedules: nothing lost, doubled or changed")
    return all(results)


def main() -> None:
    """Run the schedules; exit 1 if one of them lost something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("sqlite", "replicas"))
    sys.exit(not asyncio.run(_all(parser.parse_args())))


if __name__ == "__main__":
    main()
