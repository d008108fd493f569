from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.ack_watermark import advance
from tests.services.agent import Agent, frame
from tests.services.polling import eventually


async def _mark(agent: Agent, rank: int = 0) -> int:
    return (await agent.declare()).durable.get(str(rank), 0)


@given(stored=st.sets(st.integers(1, 40)), oldest=st.integers(0, 40), before=st.integers(0, 40))
def test_mark_is_highest_number_below_which_nothing_is_outstanding(stored, oldest, before):
    mark = advance(before, oldest=oldest, stored=stored)

    settled = stored | set(range(1, before + 1)) | set(range(1, oldest))
    assert set(range(1, mark + 1)) <= settled
    assert mark + 1 not in settled


async def test_mark_follows_the_commit(agent: Agent):
    receipt = await agent.send([frame(1), frame(2)])

    assert (receipt.accepted, receipt.duplicates) == (2, 0)
    assert await eventually(lambda: _mark(agent), lambda mark: mark == 2) == 2


async def test_mark_waits_for_a_gap_and_passes_it_once_filled(agent: Agent):
    await agent.send([frame(1), frame(3)])
    assert await eventually(lambda: _mark(agent), lambda mark: mark >= 1) == 1

    await agent.send([frame(2)])

    assert await eventually(lambda: _mark(agent), lambda mark: mark > 1) == 3


async def test_mark_passes_what_the_agent_gave_up(agent: Agent):
    await agent.send([frame(5)], oldest=5, dropped=4)

    assert await eventually(lambda: _mark(agent), lambda mark: mark > 0) == 5
    health = (await agent.get())["health"]["0"]
    assert (health["dropped"], health["durable"]) == (4, 5)


async def test_heartbeat_answers_the_mark_and_takes_nothing(agent: Agent):
    await agent.send([frame(1)])
    await eventually(lambda: _mark(agent), lambda mark: mark == 1)

    receipt = await agent.send([])

    assert (receipt.durable, receipt.accepted, receipt.duplicates) == (1, 0, 0)


async def test_same_batch_again_is_counted_as_duplicates(agent: Agent):
    frames = [frame(seq) for seq in range(1, 6)]
    await agent.send(frames)
    await eventually(lambda: _mark(agent), lambda mark: mark == 5)

    receipt = await agent.send(frames)

    assert (receipt.durable, receipt.accepted, receipt.duplicates) == (5, 0, 5)
    assert (await agent.get())["frames"] == 5


async def test_same_batch_twice_at_once_is_stored_once(agent: Agent):
    frames = [frame(seq) for seq in range(1, 30)]

    await asyncio.gather(*(agent.send(frames) for _ in range(4)))

    await eventually(lambda: _mark(agent), lambda mark: mark == 29)
    assert (await agent.get("/steps"))["steps"] == list(range(1, 30))
    assert (await eventually(agent.get, lambda run: run["frames"] > 0))["frames"] == 29


async def test_two_ranks_of_one_run_keep_their_own_marks(client: httpx.AsyncClient):
    agents = [Agent(client, run_id="a" * 32), Agent(client, run_id="a" * 32)]
    await asyncio.gather(*(agent.declare() for agent in agents))

    async def work(agent: Agent, rank: int, upto: int) -> None:
        for seq in range(1, upto + 1):
            await agent.send([frame(seq)], rank=rank)

    await asyncio.gather(work(agents[0], 0, 12), work(agents[1], 1, 7))

    durable = await eventually(
        agents[0].declare, lambda receipt: receipt.durable == {"0": 12, "1": 7}
    )
    assert durable.durable == {"0": 12, "1": 7}
    assert (await agents[0].get("/steps"))["steps"] == list(range(1, 13))


async def test_declaring_again_changes_nothing_and_answers_the_marks(agent: Agent):
    await agent.send([frame(1)])
    await eventually(lambda: _mark(agent), lambda mark: mark == 1)
    before = await agent.get()

    await agent.declare(name="another name", tags=("new",))

    after = await agent.get()
    assert (after["name"], after["tags"], after["frames"]) == (before["name"], [], 1)


@pytest.mark.parametrize("count", [1, 700])
async def test_frames_of_one_batch_all_become_steps(agent: Agent, count: int):
    await agent.send([frame(seq) for seq in range(1, count + 1)])

    await eventually(lambda: _mark(agent), lambda mark: mark == count)
    assert (await agent.get("/steps"))["steps"] == list(range(1, count + 1))
