"""Two processes that send as one rank: one at a time, and what is acknowledged is stored."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.writers import LEASE_S, WriterRow
from tests.services.agent import LAYOUT, Agent, batch, frame, vector
from tests.services.polling import eventually
from wire import FrameBatch, Health, RunDeclaration, Writer, encode_batch

FIRST = Writer("first", "node-1", 11, 1_700_000_000.0)
LATE = Writer("late", "node-2", 22, 1_700_000_100.0)


def of_epoch(epoch: int, seqs: range, **changes) -> bytes:
    frames = [frame(seq, **changes) for seq in seqs]
    oldest = frames[0].seq if frames else 1
    return encode_batch(FrameBatch(0, oldest, frames, Health(), epoch=epoch))


async def refused(agent: Agent, body: bytes) -> dict:
    answer = await agent.post(body)
    assert answer.status_code == 409, answer.text
    return answer.json()["error"]


async def declared(agent: Agent, writer: Writer, rank: int = 0) -> tuple[int, dict]:
    message = RunDeclaration("demo", "run", LAYOUT, rank=rank, writer=writer)
    answer = await agent.client.put(agent.path(), content=msgspec.json.encode(message))
    return answer.status_code, answer.json()


async def stored_steps(agent: Agent, steps: list[int]) -> None:
    async def shown() -> list[int]:
        return (await agent.get("/steps"))["steps"]

    await eventually(shown, lambda shown: shown == steps)


async def test_the_later_of_two_is_refused_by_the_name_of_the_first(agent: Agent):
    assert (await declared(agent, FIRST))[1]["epoch"] == 1

    status, answer = await declared(agent, LATE)

    assert (status, answer["error"]["code"], answer["error"]["field"]) == (
        409, "other_writer", "writer",
    )  # fmt: skip
    message = answer["error"]["message"]
    assert "process 11 on node-1" in message and "2023-11-14 22:13:20 UTC" in message
    assert "take_over=True" in answer["error"]["fix"]


async def test_frames_of_an_old_epoch_are_refused_after_a_take_over(agent: Agent):
    await declared(agent, FIRST)
    assert (await agent.post(of_epoch(1, range(1, 4)))).status_code == 200
    taken = msgspec.structs.replace(LATE, take_over=True)
    assert (await declared(agent, taken))[1]["epoch"] == 2

    error = await refused(agent, of_epoch(1, range(4, 6)))
    ended = await agent.client.post(
        agent.path("/end"), json={"status": "finished", "rank": 0, "epoch": 1}
    )
    assert (await agent.post(of_epoch(2, range(10, 12)))).status_code == 200

    assert "process 22 on node-2" in error["message"]
    assert ended.status_code == 409
    await stored_steps(agent, [1, 2, 3, 10, 11])
    assert (await agent.get())["status"] == "running"


async def test_the_same_process_declares_again_under_its_epoch(agent: Agent):
    epochs = [(await declared(agent, FIRST))[1]["epoch"] for _ in range(3)]

    assert epochs == [1, 1, 1]


async def test_each_rank_has_its_own_sender(agent: Agent):
    await declared(agent, FIRST, rank=0)

    assert (await declared(agent, LATE, rank=1))[0] == 200


async def test_the_next_job_need_not_wait_where_the_first_has_ended(agent: Agent):
    await declared(agent, FIRST)
    ending = {"status": "finished", "rank": 0, "epoch": 1}
    assert (await agent.client.post(agent.path("/end"), json=ending)).status_code == 204

    assert (await declared(agent, LATE))[1]["epoch"] == 2


async def test_an_agent_without_a_claim_goes_on_where_nobody_has_one(agent: Agent):
    await agent.declare()
    await agent.send([frame(1)])
    await declared(agent, FIRST)

    await refused(agent, batch([frame(2)]))
    await agent.client.post(agent.path("/end"), json={"status": "failed", "rank": 0, "epoch": 1})
    await agent.send([frame(2)], oldest=1)

    await stored_steps(agent, [1, 2])


async def test_frames_below_the_mark_that_are_not_stored_are_no_duplicates(agent: Agent):
    await agent.declare()
    await agent.send([frame(seq) for seq in range(100, 104)], oldest=100)
    await eventually(agent.get, lambda run: run["frames"] == 4)

    receipt = await agent.send([frame(seq) for seq in range(1, 101)], oldest=1)

    assert (receipt.accepted, receipt.duplicates) == (99, 1)
    await stored_steps(agent, list(range(1, 104)))
    again = await agent.send([frame(seq) for seq in range(1, 101)], oldest=1)
    assert (again.accepted, again.duplicates) == (0, 100)


async def test_a_heartbeat_moves_no_mark_past_what_the_rank_has_sent(agent: Agent):
    await agent.declare()
    await agent.send([frame(1)])

    for oldest in (2**52, 2**40, 1_000):
        receipt = await agent.send([], oldest=oldest)
        assert receipt.durable <= 1
    await agent.send([frame(seq) for seq in range(2, 6)], oldest=2)

    await stored_steps(agent, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (batch([], oldest=2**53), "oldest"),
        (batch([frame(3)], oldest=4), "oldest"),
        (batch([frame(2**52 + 1, 3)]), "frames[0].seq"),
        (of_epoch(-1, range(0)), "epoch"),
    ],
)
async def test_absurd_numbers_are_refused_by_name(agent: Agent, body: bytes, field: str):
    await agent.declare()

    answer = await agent.post(body)

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_a_number_that_holds_another_frame_is_a_conflict_and_no_duplicate(agent: Agent):
    await agent.declare()
    await agent.send([frame(1)])
    await stored_steps(agent, [1])

    answer = await agent.post(batch([frame(1, values=vector(1, loss=7.0))]))

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "conflicting_frame")
    assert error["field"] == "frames[0].seq"


async def test_a_process_that_comes_back_is_told_of_its_own_frames_only(agent: Agent):
    await declared(agent, FIRST)
    await agent.post(of_epoch(1, range(1, 4)))
    taken = msgspec.structs.replace(LATE, take_over=True)
    await declared(agent, taken)
    await agent.post(of_epoch(2, range(100, 103)))
    await eventually(agent.get, lambda run: run["frames"] == 6)

    back = msgspec.structs.replace(FIRST, take_over=True)
    _, receipt = await declared(agent, back)
    answer = await agent.post(of_epoch(3, range(4, 8)))

    assert (receipt["epoch"], receipt["durable"]["0"]) == (3, 0)
    assert answer.json()["accepted"] == 4
    await stored_steps(agent, [*range(1, 8), 100, 101, 102])
    heartbeat = encode_batch(FrameBatch(0, 4, [], Health(), epoch=3))
    assert (await agent.post(heartbeat)).json()["durable"] == 7


@given(epoch=st.integers(0, 5), held=st.integers(1, 5), now=st.floats(0, 100))
def test_a_lease_excludes_every_epoch_but_its_own(epoch: int, held: int, now: float):
    row = WriterRow("r", 0, held, "w", "h", 1, 0.0, leased_until=LEASE_S)

    excluded = row.excludes(epoch, now)

    if epoch == 0:
        assert excluded == (now < LEASE_S)
    else:
        assert excluded == (epoch != held)
