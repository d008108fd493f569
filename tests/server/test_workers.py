"""Background work ends where it can be cut off."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from server import workers
from server.database import connect
from server.metrics import Metrics


async def test_worker_inside_a_session_is_not_cut_off_before_it_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CANCEL_AGAIN_S", 0.001)
    database = connect(f"sqlite+aiosqlite:///{tmp_path}/x.db")
    inside, left = asyncio.Event(), []

    async def turn() -> None:
        async with database.writing() as session:
            inside.set()
            for _ in range(20):  # each gives the loop a chance to cut it off
                await session.execute(text("SELECT 1"))
            left.append("whole")

    async with workers.running({"writer": turn}, Metrics(), database.serves):
        await inside.wait()
    await database.close()

    assert left == ["whole"]  # and no second turn


async def test_worker_that_waits_for_ever_inside_a_session_is_cut_off_all_the_same(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 0.0)
    ended = asyncio.Event()

    async def turn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with workers.running({"stuck": turn}, Metrics(), lambda _: True):
        await asyncio.sleep(0)

    assert ended.is_set()
