from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from server.app import create_app
from server.settings import Settings
from tests.services.agent import LAYOUT, Agent, batch, frame, vector
from tests.services.serving import running
from wire import MEDIA_TYPE, FrameBatch, Health, Layout, RunDeclaration, Series, encode_batch

ABSENT = "f" * 32


def _declaration(**changes: Any) -> dict[str, Any]:
    message = RunDeclaration(project="demo", name="run", layout=LAYOUT)
    return msgspec.to_builtins(message) | changes


def _error(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "field", "message", "fix"}
    assert error["message"] and error["fix"]
    return answer.status_code, error["field"]


def _raw(**changes: Any) -> bytes:
    message = msgspec.to_builtins(
        FrameBatch(rank=0, oldest=1, frames=[frame(1)], health=Health()), builtin_types=(bytes,)
    )
    return msgspec.msgpack.encode(message | changes)


BAD_FRAMES = {
    "not msgpack": (b"\x00garbage", 422, "wire_version"),
    "another version": (_raw(wire_version=99), 422, "wire_version"),
    "no version": (msgspec.msgpack.encode({"rank": 0}), 422, "wire_version"),
    "unknown layout": (batch([frame(1), frame(2, layout="0" * 32)]), 409, "frames[1].layout"),
    "too few values": (batch([frame(1, values=vector(1)[:-1])]), 422, "frames[0].values"),
    "too many values": (
        batch([frame(1), frame(2, values=np.append(vector(1), 1))]),
        422,
        "frames[1].values",
    ),
    "order": (batch([frame(2), frame(1)]), 422, "frames[1].seq"),
    "seq of 0": (batch([frame(0, 1)]), 422, "frames[0].seq"),
    "seq past 2^53": (batch([frame(2**60, 1)]), 422, "frames[0].seq"),
    "negative step": (batch([frame(1, -1, values=vector(0))]), 422, "frames[0].step"),
    "time": (batch([frame(1, time=float("nan"))]), 422, "frames[0].time"),
    "negative rank": (batch([], rank=-1), 422, "rank"),
    "rank past 2^31": (batch([], rank=2**31), 422, "rank"),
    "oldest": (batch([], oldest=-1), 422, "oldest"),
    "overhead": (batch([], overhead=float("nan")), 422, "health.overhead"),
    "rank of another type": (_raw(rank="zero"), 422, "rank"),
}


@pytest.fixture
async def embedded_agent(embedded: Settings) -> AsyncIterator[Agent]:
    """The agent of a run on one running server; bad input never reaches a back end."""
    async with running(create_app(embedded)) as client:
        agent = Agent(client)
        await agent.declare()
        yield agent


async def test_every_bad_batch_is_refused_whole_and_named_by_its_field(embedded_agent: Agent):
    answers = {
        name: _error(await embedded_agent.post(body)) for name, (body, _, _) in BAD_FRAMES.items()
    }

    assert answers == {name: (status, field) for name, (_, status, field) in BAD_FRAMES.items()}
    assert (await embedded_agent.get("/steps"))["steps"] == []


BAD_DECLARATIONS: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty project": (_declaration(project=" "), 422, "project"),
    "long name": (_declaration(name="x" * 201), 422, "name"),
    "name of two lines": (_declaration(name="a\nb"), 422, "name"),
    "NUL": (_declaration(config={"a": {"b": ["\0"]}}), 422, "config.a.b[0]"),
    "tag": (_declaration(tags=["good", ""]), 422, "tags[1]"),
    "version": (_declaration(wire_version=2), 422, "wire_version"),
    "empty layout": (_declaration(layout={"series": []}), 422, "layout.series"),
    "series twice": (
        _declaration(layout={"series": [msgspec.to_builtins(Series("", "loss", "value", 1))] * 2}),
        422,
        "layout.series",
    ),
    "length of 0": (
        _declaration(layout={"series": [msgspec.to_builtins(Series("", "loss", "value", 0))]}),
        422,
        "layout.series[0].n",
    ),
    "type": (_declaration(started_at="now"), 422, "started_at"),
    "absent field": ({"project": "demo"}, 422, "name"),
}


async def test_every_bad_declaration_is_refused_and_named_by_its_field(embedded_agent: Agent):
    answers = {}
    for name, (body, _, _) in BAD_DECLARATIONS.items():
        answer = await embedded_agent.client.put(f"/api/v1/runs/{ABSENT}", json=body)
        answers[name] = _error(answer)

    expected = {name: (status, field) for name, (_, status, field) in BAD_DECLARATIONS.items()}
    assert answers == expected
    assert (await embedded_agent.client.get(f"/api/v1/runs/{ABSENT}")).status_code == 404


BAD_REQUESTS = [
    ("GET", f"/runs/{ABSENT}", 404, "run_id"),
    ("GET", f"/runs/{ABSENT}/steps", 404, "run_id"),
    ("GET", "/runs/short", 422, "run_id"),
    ("GET", "/runs?limit=0", 422, "limit"),
    ("GET", "/runs?status=happy", 422, "status"),
    ("GET", "/runs?cursor=%25%25", 422, "cursor"),
    ("GET", "/alerts?cursor=YWJj", 422, "cursor"),
    ("GET", "/runs/{id}/profile?step=-1", 422, "step"),
    ("GET", "/runs/{id}/profile?step=x", 422, "step"),
    ("GET", "/runs/{id}/history", 422, "series"),
    ("GET", "/runs/{id}/history?series=decoder/nothing/here", 404, "series"),
    ("GET", "/runs/{id}/history?series=decoder/stream/variance&max_steps=0", 422, "max_steps"),
    ("GET", "/runs/{id}/scalars", 422, "series"),
    ("GET", "/runs/{id}/scalars?series=decoder/stream/variance", 422, "series[0]"),
    ("GET", "/runs/{id}/steps?after=x", 422, "after"),
    ("GET", "/runs/{id}/export?format=xml", 422, "format"),
    ("POST", f"/alerts/{ABSENT}/acknowledge", 404, "alert_id"),
]


async def test_every_bad_request_names_its_field(embedded_agent: Agent):
    answers = {}
    for method, path, _, _ in BAD_REQUESTS:
        url = f"/api/v1{path}".replace("{id}", embedded_agent.run_id)
        answers[method, path] = _error(await embedded_agent.client.request(method, url))

    expected = {(method, path): (status, field) for method, path, status, field in BAD_REQUESTS}
    assert answers == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [({"name": ""}, "name"), ({"tags": ["a\nb"]}, "tags[0]"), ({"colour": "red"}, "colour")],
)
async def test_bad_edit_names_its_field(embedded_agent: Agent, change: dict[str, Any], field: str):
    answer = await embedded_agent.client.patch(embedded_agent.path(), json=change)

    assert _error(answer) == (422, field)


async def test_frames_of_another_media_type_are_refused(embedded_agent: Agent):
    answer = await embedded_agent.client.post(
        embedded_agent.path("/frames"), content=batch([frame(1)])
    )

    assert _error(answer) == (415, "content-type")


async def test_body_past_the_limit_is_refused(embedded_agent: Agent):
    state = embedded_agent.client._transport.app.state.server  # type: ignore[attr-defined]
    headers = {"content-type": MEDIA_TYPE}
    huge = b"\0" * (state.settings.max_body_bytes + 1)

    answer = await embedded_agent.client.post(
        embedded_agent.path("/frames"), content=huge, headers=headers
    )

    assert _error(answer) == (413, "body")


async def test_run_id_that_is_none_is_refused(embedded_agent: Agent):
    answer = await embedded_agent.client.put("/api/v1/runs/" + "G" * 32, json=_declaration())

    assert _error(answer) == (422, "run_id")


async def test_run_cannot_move_to_another_project(embedded_agent: Agent):
    answer = await embedded_agent.client.put(
        embedded_agent.path(), json=_declaration(project="other")
    )

    assert _error(answer) == (409, "project")


@pytest.mark.parametrize("path", ["/api/nothing", "/api/v1/nothing", "/api/v2/runs", "/api/"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_unknown_api_path_is_a_json_404(embedded_agent: Agent, method: str, path: str):
    answer = await embedded_agent.client.request(method, path)

    assert _error(answer) == (404, None)


async def test_a_newer_agents_fields_are_passed_over(embedded_agent: Agent):
    newer = await embedded_agent.client.put(embedded_agent.path(), json=_declaration(colour="red"))
    taken = await embedded_agent.post(_raw(colour="red"))

    assert (newer.status_code, taken.status_code) == (200, 200)
    assert msgspec.json.decode(taken.content)["accepted"] == 1


async def test_second_layout_may_follow_and_both_are_taken(embedded_agent: Agent):
    wide = Layout((*LAYOUT.series, Series("", "gradient_norm", "value", 1)))
    await embedded_agent.send([frame(1)])
    await embedded_agent.declare(layout=wide)

    values = np.append(vector(2), np.float32(7))
    receipt = await embedded_agent.send([frame(2), frame(3, values=values, layout=wide.hash)])

    assert receipt.accepted == 2
    assert (await embedded_agent.get("/profile"))["scalars"]["gradient_norm"] == 7.0


async def test_empty_batch_of_an_undeclared_run_names_the_run(embedded_agent: Agent):
    absent = Agent(embedded_agent.client, run_id=ABSENT)

    assert _error(await absent.post(encode_batch(FrameBatch(0, 1, [], Health())))) == (
        404,
        "run_id",
    )
