"""Scalars of steps that were not sampled: stored once, read beside the sampled ones."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from server.bus import Message
from server.database import Database, connect
from server.ingest.commit import commit_run
from server.ingest.declaration import new_run
from server.profiles import service
from server.runs.repository import RunRepository
from server.settings import Settings
from server.storage.step_scalars import STEPS_A_ROW, rows_after, scalars_of_row
from server.tables import metadata, step_scalars
from tests.services.agent import LAYOUT, STEPS_LAYOUT, Agent, batch, frame, steps_frame, vector
from tests.services.polling import eventually
from tests.services.vectors import from_f32
from wire import Frame, RunDeclaration

LOSS = "/loss/value"
RUN = "a" * 32
NO_LOSS = float(np.uint32(0x7FC0AB5E).view(np.float32))


async def declare(agent: Agent) -> None:
    await agent.declare()
    await agent.declare(layout=STEPS_LAYOUT)


async def durable(agent: Agent, seq: int) -> None:
    await eventually(lambda: agent.send([]), lambda receipt: receipt.durable >= seq)


async def losses(agent: Agent, **query: int) -> dict[int, float]:
    answer = await agent.get("/scalars", series=LOSS, max_steps=10_000, **query)
    return dict(zip(answer["steps"], from_f32(answer["values_f32"][LOSS]).tolist(), strict=True))


@pytest.fixture
async def sparse(agent: Agent) -> Agent:
    """Steps 0 and 4 are sampled, 1 to 3 and 5 to 6 are not."""
    await declare(agent)
    await agent.send(
        [
            frame(1, 0, values=vector(0, loss=9.0)),
            steps_frame(2, 3, [8.0, 7.0, 6.0]),
            frame(3, 4, values=vector(4, loss=5.0)),
            steps_frame(4, 6, [4.0, 3.0]),
        ]
    )
    await durable(agent, 4)
    return agent


async def test_the_loss_has_every_step_and_the_depth_those_sampled(sparse: Agent):
    assert await losses(sparse) == {0: 9.0, 1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0, 5: 4.0, 6: 3.0}
    assert await losses(sparse, after=4) == {5: 4.0, 6: 3.0}
    assert (await sparse.get("/steps"))["steps"] == [0, 4]
    assert (await sparse.get("/profile"))["step"] == 4
    history = await sparse.get("/history", series="decoder/stream/variance")
    assert history["steps"] == [0, 4]


async def test_a_run_speaks_of_all_its_steps(sparse: Agent):
    run = await sparse.get()

    assert (run["first_step"], run["last_step"], run["last_loss"]) == (0, 6, 3.0)
    assert run["sparkline"] == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    assert run["frames"] == 2
    assert [series["key"] for series in run["layout"]] == [series.key for series in LAYOUT]


async def test_the_history_of_a_scalar_has_every_step_and_its_rollups(sparse: Agent):
    history = await sparse.get("/history", series=LOSS)
    least = await sparse.get("/history", series=LOSS, summary="min")

    assert history["steps"] == list(range(7))
    assert from_f32(least["values_f32"]).tolist() == [3.0]


async def test_an_export_has_a_row_for_every_step(sparse: Agent):
    table = (await sparse.client.get(sparse.path("/export?format=csv"))).text

    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["step"] for row in rows] == list("0123456")
    assert [float(row[LOSS]) for row in rows] == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    assert [float(row["time"]) for row in rows] == [1000.0 + step for step in range(7)]
    variances = [row["decoder/stream/variance[0]"] for row in rows]
    assert [bool(value) for value in variances] == [True, False, False, False, True, False, False]


async def test_what_is_sent_twice_is_stored_once(sparse: Agent):
    receipt = await sparse.send([steps_frame(2, 3, [1.0, 1.0, 1.0]), steps_frame(5, 7, [2.0])])
    await durable(sparse, 5)

    assert (receipt.accepted, receipt.duplicates) == (1, 1)
    assert await losses(sparse) == {0: 9.0, 1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0, 5: 4.0, 6: 3.0, 7: 2.0}


async def test_scalars_beyond_a_gap_are_known_when_they_come_again(sparse: Agent):
    await sparse.send([steps_frame(6, 8, [1.0])])
    await eventually(lambda: losses(sparse), lambda stored: 8 in stored)

    receipt = await sparse.send([steps_frame(6, 8, [1.0])], oldest=6)

    assert receipt.duplicates == 1
    await durable(sparse, 6)


async def test_a_resumed_job_supersedes_the_steps_inside_a_frame(sparse: Agent):
    await sparse.send([steps_frame(1000, 3, [1.0, 1.5])], oldest=1000)
    await durable(sparse, 1000)

    assert await losses(sparse) == {0: 9.0, 1: 8.0, 2: 1.0, 3: 1.5}
    run = await sparse.get()
    assert run["last_step"] == 3 and run["superseded"] == [[2, 3]]


async def test_a_page_is_told_from_which_step_on_there_are_scalars(sparse: Agent, app):
    hub = app.state.hub
    async with hub.open_queue(frozenset({sparse.run_id}), None) as queue:
        await sparse.send([steps_frame(5, 9, [1.0, 1.0, 1.0])])
        await sparse.send([steps_frame(6, 10, [1.0])])
        await durable(sparse, 6)
        texts: list[str] = []

        async def steps() -> list[int]:
            texts.extend([await hub.text_of(*message) for message in await queue.take(0.1)])
            messages = map(json.loads, texts)
            return [message["first"] for message in messages if message["type"] == "scalars"]

        firsts = await eventually(steps, bool)

    assert min(firsts) == 7


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (steps_frame(5, 1, [1.0, 2.0, 3.0]), "frames[0].values"),
        (
            Frame.pack(
                seq=5, step=9, time=0.0, layout=STEPS_LAYOUT.hash, values=np.zeros(0, np.float32)
            ),
            "frames[0].values",
        ),
        (
            Frame.pack(
                seq=5,
                step=9,
                time=0.0,
                layout=STEPS_LAYOUT.hash,
                values=np.array([-1, 1, 1], np.float32),
            ),
            "frames[0].values",
        ),
        (
            Frame.pack(
                seq=5,
                step=9,
                time=0.0,
                layout=LAYOUT.hash,
                values=np.zeros(2 * LAYOUT.size, np.float32),
            ),
            "frames[0].values",
        ),
    ],
    ids=["steps before 0", "no step", "a negative age", "two steps of a sampled layout"],
)
async def test_impossible_steps_are_refused(agent: Agent, wrong: Frame, field: str):
    await declare(agent)

    answer = await agent.post(batch([wrong]))

    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field and answer.json()["error"]["fix"]


async def test_the_server_says_that_it_takes_several_steps_a_frame(agent: Agent):
    assert (await agent.declare()).packs_steps


async def test_many_frames_share_a_row(agent: Agent, app):
    await declare(agent)
    await agent.send([steps_frame(seq, seq, [1.0]) for seq in range(1, 101)])
    await agent.send([steps_frame(seq, seq, [1.0]) for seq in range(101, 201)])
    await durable(agent, 200)

    async with app.state.server.database.reading() as session:
        rows = (await session.execute(select(func.count()).select_from(step_scalars))).scalar_one()
    assert rows == 1
    assert len(await losses(agent)) == 200


def test_a_full_row_is_followed_by_another():
    layouts = {STEPS_LAYOUT.hash: STEPS_LAYOUT}
    frames = [steps_frame(seq, 100 * seq, [1.0] * 100) for seq in range(1, 31)]

    rows = rows_after(None, frames, layouts, run_id=RUN, rank=0)

    assert all(row.n <= STEPS_A_ROW for row in rows) and len(rows) == 3
    steps = np.concatenate([scalars_of_row(row).steps for row in rows])
    assert steps.tolist() == list(range(1, 3001))


@dataclass
class Job:
    """A job whose agent forgets nothing: every frame it ever made, and the loss of every step.

    Attributes:
        frames: all frames, in the order of their numbers.
        losses: what a reader should see: the losses that led to today's model.
    """

    frames: list[Frame] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    step: int = 0
    seq: int = 0

    def run(self, n_steps: int, *, sampled: bool) -> None:
        """Take steps and record them: each as a sample, or all in one frame."""
        given_losses = [
            NO_LOSS if self.step % 7 == 6 else float(self.seq * 100 + n) for n in range(n_steps)
        ]
        first, self.step = self.step, self.step + n_steps
        self.losses |= {first + n: loss for n, loss in enumerate(given_losses)}
        if not sampled:
            self._add(steps_frame(self.seq + 1, self.step - 1, given_losses))
            return
        for n, loss in enumerate(given_losses):
            values = vector(first + n, loss=loss)
            self._add(frame(self.seq + 1, first + n, values=values))

    def restart(self, back: int) -> None:
        """Go on from an earlier step; what came after it did not lead to the model."""
        self.step = max(0, self.step - back)
        self.seq += 1000
        self.losses = {step: loss for step, loss in self.losses.items() if step < self.step}

    def _loss(self, step: int) -> float:
        return NO_LOSS if step % 7 == 6 else float(self.seq * 100 + step)

    def _add(self, new: Frame) -> None:
        self.frames.append(new)
        self.seq = new.seq


# What happens, and how much of it.
events = st.lists(
    st.tuples(st.sampled_from(["run", "sample", "resend", "restart"]), st.integers(1, 9)),
    max_size=12,
)


@settings(max_examples=40)
@given(events)
def test_the_stored_losses_are_those_that_were_given(happenings: Sequence[tuple[str, int]]):
    job, batches, sent = Job(), [], 0
    for kind, amount in happenings:
        if kind == "restart" and job.frames:
            job.restart(amount)
        elif kind == "resend" and sent:
            batches.append(job.frames[-amount:])
        elif kind in {"run", "sample"}:
            job.run(amount, sampled=kind == "sample")
            batches.append(job.frames[sent:])
            sent = len(job.frames)

    stored = asyncio.run(_stored(batches))

    # A restart that records nothing more shows what was there before.
    went_on = {step: loss for step, loss in job.losses.items() if step < job.step}
    shown = {step: loss for step, loss in stored.items() if step < job.step}
    assert {step: np.float32(loss).tobytes() for step, loss in shown.items()} == {
        step: np.float32(loss).tobytes() for step, loss in went_on.items()
    }


async def _stored(batches: Sequence[Sequence[Frame]]) -> dict[int, float]:
    with TemporaryDirectory() as folder:
        database = connect(f"sqlite+aiosqlite:///{Path(folder) / 'scalars.db'}")
        try:
            return await _committed(database, batches)
        finally:
            await database.close()


async def _committed(database: Database, batches: Sequence[Sequence[Frame]]) -> dict[int, float]:
    async with database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    declaration = RunDeclaration(project="p", name="n", layout=LAYOUT)
    async with database.writing() as session:
        repository = RunRepository(session)
        await repository.add(new_run(RUN, declaration, 0.0))
        for layout in (LAYOUT, STEPS_LAYOUT):
            await repository.add_layout(RUN, layout)
    for frames in batches:
        async with database.writing() as session:
            (run,) = await RunRepository(session).get_many([RUN])
            message = Message(id="", run_id=RUN, body=batch(frames), received_at=1.0)
            await commit_run(session, Settings(), run, [message])
    answer = await service.scalars(database, RUN, [LOSS], after=-1, most=10_000)
    return dict(zip(answer.steps, from_f32(answer.values_f32[LOSS]), strict=True))
