from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from server.app import create_app
from server.settings import Settings
from server.storage import compaction
from server.storage.compaction import compact_some
from server.tables import blocks, frames
from tests.services.agent import LAYOUT, N_LAYERS, Agent, frame, vector
from tests.services.polling import eventually
from tests.services.serving import running
from tests.services.vectors import from_f32
from wire import ABSENT, Layout, Series, is_absent

SERIES = "decoder/stream/variance"


async def _settle(agent: Agent, seq: int) -> None:
    """Wait until every frame up to `seq` is durable and judged."""
    state = agent.client._transport.app.state.server  # type: ignore[attr-defined]

    async def marks() -> list[tuple[int, int]]:
        from server.tables import marks as table

        async with state.database.reading() as session:
            query = select(table.c.durable, table.c.diagnosed)
            return [tuple(row) for row in (await session.execute(query)).all()]

    await eventually(marks, lambda rows: bool(rows) and min(map(min, rows)) >= seq)


@pytest.fixture
async def packed(settings: Settings) -> AsyncIterator[tuple[FastAPI, Agent]]:
    """A run of 100 frames in blocks of 16, and its app; the packer packs when it is told."""
    app = create_app(settings.model_copy(update={"segment_frames": 16}))
    async with running(app) as client:
        agent = Agent(client)
        await agent.declare()
        await agent.send([frame(seq, loss_step) for seq, loss_step in _numbered(100)])
        await _settle(agent, 100)
        yield app, agent


def _numbered(count: int) -> list[tuple[int, int]]:
    return [(seq, 3 * seq) for seq in range(1, count + 1)]


async def _count(app: FastAPI, table) -> int:
    async with app.state.server.database.reading() as session:
        return (await session.execute(select(func.count()).select_from(table))).scalar_one()


async def _pack_all(app: FastAPI) -> None:
    while await compact_some(app.state.server):
        pass


async def _everything(agent: Agent) -> list[object]:
    return [
        await agent.get("/steps"),
        await agent.get("/profile", step=100),
        await agent.get("/profile"),
        await agent.get("/history", series=SERIES, max_steps=40),
        await agent.get("/history", **{"series": SERIES, "from": 50, "to": 222}),
        await agent.get("/scalars", series=["/loss/value", "/learning_rate/value"]),
        (await agent.client.get(agent.path("/export?format=csv"))).text,
    ]


async def test_packing_changes_no_answer(packed: tuple[FastAPI, Agent]):
    app, agent = packed
    before = await _everything(agent)

    await _pack_all(app)

    assert await _count(app, blocks) >= 4
    assert await _count(app, frames) < 100
    assert await _everything(agent) == before


async def test_frame_resent_after_packing_is_a_duplicate(packed: tuple[FastAPI, Agent]):
    app, agent = packed
    await _pack_all(app)

    receipt = await agent.send([frame(1, 3), frame(2, 6)])

    assert (receipt.accepted, receipt.duplicates, receipt.durable) == (0, 2, 100)
    assert (await agent.get())["frames"] == 100


async def test_summary_of_packed_steps_is_that_of_the_frames(packed: tuple[FastAPI, Agent]):
    app, agent = packed
    await _pack_all(app)

    names = ("min", "mean", "max")
    by_summary = {name: await agent.get("/history", series=SERIES, summary=name) for name in names}

    steps = np.array([3 * seq for seq in range(1, 101)])
    measured = np.stack([vector(step)[LAYOUT.slices[SERIES]] for step in steps])
    first = measured[:16]  # blocks are of 16 frames here, as cells are
    rows = {name: from_f32(by_summary[name]["values_f32"])[: N_LAYERS + 1] for name in names}
    np.testing.assert_array_equal(rows["min"], first.min(axis=0))
    np.testing.assert_array_equal(rows["max"], first.max(axis=0))
    np.testing.assert_allclose(rows["mean"], first.mean(axis=0), rtol=1e-6)
    assert by_summary["mean"]["steps"] == steps[::16].tolist()


async def test_packer_that_dies_midway_loses_and_repeats_nothing(
    packed: tuple[FastAPI, Agent], monkeypatch: pytest.MonkeyPatch
):
    app, agent = packed
    before = await _everything(agent)

    async def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(compaction, "_remove_frames", die)
        with pytest.raises(KeyboardInterrupt):
            await compact_some(app.state.server)
    assert await _count(app, frames) == 100

    await _pack_all(app)
    assert await _everything(agent) == before


async def test_profile_is_the_sampled_step_nearest_from_below(agent: Agent):
    await agent.send([frame(1, 10), frame(2, 20)])
    await _settle(agent, 2)

    answer = await agent.get("/profile", step=19)

    assert (answer["step"], answer["stacks"]["decoder"]["n_layers"]) == (10, N_LAYERS)
    measured = from_f32(answer["stacks"]["decoder"]["series"]["stream/variance_f32"])
    assert measured.tolist() == vector(10)[LAYOUT.slices[SERIES]].tolist()


async def test_profile_before_the_first_frame_names_the_step(agent: Agent):
    await agent.send([frame(1, 10)])
    await _settle(agent, 1)

    answer = await agent.client.get(agent.path("/profile?step=9"))

    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "step")


async def test_nan_and_infinity_reach_every_read(agent: Agent):
    values = vector(1)
    where = LAYOUT.slices[SERIES]
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], dtype=np.float32)
    values[where] = odd
    values[LAYOUT.slices["/loss/value"]] = np.inf
    await agent.send([frame(1, values=values)])
    await _settle(agent, 1)

    profile = await agent.get("/profile")
    history = await agent.get("/history", series=SERIES)
    scalars = await agent.get("/scalars", series="/loss/value")
    export = (await agent.client.get(agent.path("/export?format=parquet"))).content

    expected = odd.view(np.uint32).tolist()
    series = profile["stacks"]["decoder"]["series"]["stream/variance_f32"]
    assert from_f32(series).view(np.uint32).tolist() == expected
    assert from_f32(history["values_f32"]).view(np.uint32).tolist() == expected
    assert profile["scalars"]["loss"] == "Infinity"
    assert from_f32(scalars["values_f32"]["/loss/value"]).tolist() == [np.inf]
    table = pq.read_table(io.BytesIO(export))
    assert np.array(table[SERIES][0].as_py(), np.float32).view(np.uint32).tolist() == expected
    run = await agent.get()
    assert (run["last_loss"], run["status"]) == ("Infinity", "diverged")


async def test_what_a_step_does_not_have_is_absent_in_every_read(agent: Agent):
    frames = [
        frame(seq, values=vector(seq, loss=float(ABSENT) if seq > 1 else 2.0)) for seq in (1, 2)
    ]
    await agent.send(frames)
    await _settle(agent, 2)

    profile = await agent.get("/profile")
    scalars = await agent.get("/scalars", series="/loss/value")
    table = (await agent.client.get(agent.path("/export?format=csv"))).text

    assert "loss" not in profile["scalars"]
    assert is_absent(from_f32(scalars["values_f32"]["/loss/value"])).tolist() == [False, True]
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["/loss/value"] for row in rows] == ["2.0", ""]


async def test_history_is_thinned_evenly_and_keeps_both_ends(agent: Agent):
    await agent.send([frame(seq) for seq in range(1, 1001)])
    await _settle(agent, 1000)

    answer = await agent.get("/history", series=SERIES, max_steps=100)

    assert answer["shape"] == [100, N_LAYERS + 1]
    assert (answer["steps"][0], answer["steps"][-1]) == (1, 1000)
    assert set(np.diff(answer["steps"])) <= {10, 11}


async def test_step_seen_by_several_ranks_is_told_once_by_the_lowest(agent: Agent):
    other = Layout((Series("encoder", "stream", "variance", 3), Series("", "loss", "value", 1)))
    await agent.declare(layout=other)
    await agent.send([frame(1, 7, values=np.full(4, 9, "f4"), layout=other.hash)], rank=1)
    await agent.send([frame(1, 7)], rank=0)
    await _settle(agent, 1)

    assert (await agent.get("/steps"))["steps"] == [7]
    answer = await agent.get("/profile")
    assert set(answer["stacks"]) == {"decoder", "encoder"}
    assert answer["scalars"]["loss"] == 1.0


async def test_step_made_again_after_a_restart_shows_its_newest_frame(agent: Agent):
    await agent.send([frame(1, 5), frame(2, 6), frame(3, 5, values=vector(5, loss=0.25))])
    await _settle(agent, 3)

    answer = await agent.get("/scalars", series="/loss/value")

    assert answer["steps"] == [5]  # step 6 was not what led on
    assert from_f32(answer["values_f32"]["/loss/value"]).tolist() == [0.25]


async def test_exports_hold_every_step_and_agree(packed: tuple[FastAPI, Agent]):
    app, agent = packed
    await _pack_all(app)

    lines = list(
        csv.reader((await agent.client.get(agent.path("/export?format=csv"))).text.split("\r\n"))
    )
    table = pq.read_table(
        io.BytesIO((await agent.client.get(agent.path("/export?format=parquet"))).content)
    )

    rows = [line for line in lines[1:] if line]
    assert (
        [int(row[0]) for row in rows] == table["step"].to_pylist() == [3 * n for n in range(1, 101)]
    )
    at = lines[0].index(f"{SERIES}[2]")
    assert [np.float32(row[at]) for row in rows] == [row[2] for row in table[SERIES].to_pylist()]


async def test_export_of_a_run_without_frames_has_its_columns(agent: Agent):
    content = (await agent.client.get(agent.path("/export?format=parquet"))).content

    table = pq.read_table(io.BytesIO(content))

    assert (table.num_rows, table.column_names[:3]) == (0, ["step", "time", SERIES])
