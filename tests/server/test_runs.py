from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from server.app import create_app
from server.diagnosis.watchdog import mark_silent
from server.runs.status import status_of
from server.settings import Settings
from tests.services.agent import LAYOUT, Agent, frame, vector
from tests.services.polling import eventually
from tests.services.serving import running
from wire import ABSENT


@dataclass
class Watch:
    """A clock that a test moves."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Watch:
    return Watch()


@pytest.fixture
async def timed(settings: Settings, clock: Watch) -> AsyncIterator[Agent]:
    """The agent of a run on a server with that clock; the watchdog looks when it is told."""
    app = create_app(settings, clock=clock)
    async with running(app) as client:
        agent = Agent(client)
        await agent.declare()
        yield agent


async def _mark_silent(agent: Agent) -> list[str]:
    state = agent.client._transport.app.state  # type: ignore[attr-defined]
    return await mark_silent(state.server, state.outbox)


async def _status(agent: Agent) -> str:
    return (await agent.get())["status"]


@pytest.mark.parametrize(
    ("ended", "diverged", "diverging", "silent_s", "expected"),
    [
        (None, False, False, 60.0, "running"),
        (None, False, False, 60.1, "lost_contact"),
        ("finished", False, False, 1e9, "finished"),
        ("failed", False, False, 0.0, "failed"),
        (None, True, False, 0.0, "diverged"),
        ("failed", False, True, 0.0, "diverged"),
    ],
)
def test_status_follows_from_what_is_known(ended, diverged, diverging, silent_s, expected):
    status = status_of(
        ended=ended,
        diverged=diverged,
        diverging=diverging,
        silent_s=silent_s,
        lost_contact_s=60.0,
    )

    assert status == expected


async def test_silent_run_is_out_of_contact_until_its_next_frame(timed: Agent, clock: Watch):
    clock.now += 60.0
    assert await _mark_silent(timed) == []

    clock.now += 0.5
    await eventually(lambda: _status(timed), lambda status: status == "lost_contact")

    await timed.send([frame(1)])
    assert await eventually(lambda: _status(timed), lambda status: status == "running")


async def test_heartbeat_keeps_a_run_in_contact(timed: Agent, clock: Watch):
    clock.now += 50.0
    await timed.send([])
    await eventually(timed.get, lambda run: run["last_seen"] == clock.now)
    clock.now += 50.0

    assert await _mark_silent(timed) == []
    assert await _status(timed) == "running"


@pytest.mark.parametrize("status", ["finished", "failed"])
async def test_ended_run_stays_ended(timed: Agent, clock: Watch, status: str):
    body = {"status": status, "reason": "out of memory"}
    answer = await timed.client.post(timed.path("/end"), json=body)
    clock.now += 1e6

    assert answer.status_code == 204
    assert await _mark_silent(timed) == []
    run = await timed.get()
    assert (run["status"], run["end_reason"]) == (status, "out of memory")


async def test_job_started_again_runs_again(timed: Agent):
    await timed.client.post(timed.path("/end"), json={"status": "failed"})

    await timed.declare(started_at=0.0)
    assert await _status(timed) == "failed"
    await timed.declare(started_at=5.0)

    assert await _status(timed) == "running"


async def test_loss_that_turns_nan_is_divergence_and_one_never_known_is_not(agent: Agent):
    nan = float("nan")
    await agent.send([frame(1, values=vector(1, loss=nan))])
    await eventually(agent.get, lambda run: run["frames"] == 1)
    assert (await agent.get())["last_loss"] is None
    assert await _status(agent) == "running"

    await agent.send([frame(2), frame(3, values=vector(3, loss=nan))])

    await eventually(lambda: _status(agent), lambda status: status == "diverged")
    assert (await agent.get())["last_loss"] == "NaN"


async def test_a_loss_given_now_and_then_is_no_divergence(agent: Agent):
    losses = [2.0 if seq % 5 == 1 else float(ABSENT) for seq in range(1, 15)]
    await agent.send(
        [frame(seq, values=vector(seq, loss=loss)) for seq, loss in enumerate(losses, 1)]
    )

    run = await eventually(agent.get, lambda run: run["frames"] == 14)

    assert run["status"] == "running"
    assert run["last_loss"] == 2.0


async def test_sparkline_of_a_long_run_stays_within_60_points(agent: Agent):
    frames = [frame(seq, values=vector(seq, loss=1000.0 - seq)) for seq in range(1, 501)]
    await agent.send(frames)

    run = await eventually(agent.get, lambda run: run["frames"] == 500)

    assert len(run["sparkline"]) <= 60
    assert (run["sparkline"][0], run["sparkline"][-1]) == (999.0, 500.0)
    assert run["sparkline"] == sorted(run["sparkline"], reverse=True)


async def _ids(client: httpx.AsyncClient, **query: object) -> list[str]:
    answer = await client.get("/api/v1/runs", params=query)
    assert answer.status_code == 200, answer.text
    return [run["name"] for run in answer.json()["runs"]]


async def test_run_list_filters_by_word_project_tag_and_status(client: httpx.AsyncClient):
    tagged = Agent(client)
    await tagged.declare(name="Deep 100%", project="a", tags=("post-ln", "x_y"))
    await Agent(client).declare(name="wide", project="b", tags=("post-ln-2", "xzy"))
    await client.post(tagged.path("/end"), json={"status": "finished"})

    assert await _ids(client, search="deep") == ["Deep 100%"]
    assert await _ids(client, search="0% DEEP") == ["Deep 100%"]
    assert await _ids(client, search="_") == ["Deep 100%"]
    assert await _ids(client, search="post-ln") == ["wide", "Deep 100%"]
    assert await _ids(client, project="b") == ["wide"]
    assert await _ids(client, tag="post-ln") == ["Deep 100%"]
    assert await _ids(client, status="finished") == ["Deep 100%"]
    assert await _ids(client, search="nothing") == []


async def test_run_list_pages_through_every_run_once(client: httpx.AsyncClient):
    for number in range(7):
        await Agent(client).declare(name=str(number))

    names, cursor = [], None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/api/v1/runs", params=query)).json()
        names += [run["name"] for run in page["runs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert names == ["6", "5", "4", "3", "2", "1", "0"]


async def test_edited_name_and_tags_stay(agent: Agent):
    answer = await agent.client.patch(agent.path(), json={"name": "new", "tags": ["a", "b"]})
    await agent.declare()

    assert answer.json()["name"] == "new"
    run = await agent.get()
    assert (run["name"], run["tags"]) == ("new", ["a", "b"])
    assert await _ids(agent.client, tag="b") == ["new"]


async def test_detail_shows_layout_and_what_the_layout_says_of_stacks(agent: Agent):
    run = await agent.get()

    assert [series["key"] for series in run["layout"]] == [series.key for series in LAYOUT]
    assert run["stacks"]["decoder"] == {"n_layers": 4, "d_model": None, "seq_len": None}
