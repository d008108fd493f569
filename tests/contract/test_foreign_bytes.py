"""No body makes the server fail: what it does not take is refused, and names a field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

import dslm
from server.app import create_app
from server.settings import Settings
from tests.services.agent import LAYOUT, N_LAYERS, Agent, batch, frame
from tests.services.fuzzing import bodies
from tests.services.serving import running
from tests.services.specs import post_ln
from wire import MEDIA_TYPE, RunDeclaration, RunEnd, SpecRevision

COUNT = 500
SPEC = dslm.spec_to_json(post_ln(N_LAYERS))
DECLARATION = RunDeclaration("demo", "größer", LAYOUT, None, ("a",), {"lr": 3e-4, "nested": [{}]})
JSON = "application/json"

# Method, path, media type, and bodies that the endpoint takes.
ENTRIES = {
    "batch": ("POST", "/frames", MEDIA_TYPE, [batch([frame(1), frame(2)], first_failure="ä")]),
    "heartbeat": ("POST", "/frames", MEDIA_TYPE, [batch([], silent=("blocks.0",), burst="a")]),
    "declaration": ("PUT", "", JSON, [msgspec.json.encode(DECLARATION)]),
    "description": ("PUT", "/spec", JSON, [msgspec.json.encode(SpecRevision(3, SPEC))]),
    "end": ("POST", "/end", JSON, [msgspec.json.encode(RunEnd("failed", "out of memory"))]),
    "edit": ("PATCH", "", JSON, [b'{"name": "run", "tags": ["a", "b"]}']),
    "burst": ("POST", "/burst", JSON, [b'{"steps": 8, "layers": [0, 3]}']),
}


@pytest.fixture
async def embedded_agent(embedded: Settings) -> AsyncIterator[Agent]:
    async with running(create_app(embedded)) as client:
        agent = Agent(client)
        await agent.declare()
        yield agent


async def _answer(agent: Agent, entry: str, body: bytes) -> httpx.Response:
    method, path, media_type, _ = ENTRIES[entry]
    headers = {"content-type": media_type}
    return await agent.client.request(method, agent.path(path), content=body, headers=headers)


@pytest.mark.parametrize("entry", ENTRIES)
async def test_no_body_whatever_makes_an_endpoint_fail(embedded_agent: Agent, entry: str):
    statuses: Counter[int] = Counter()
    for body in bodies(ENTRIES[entry][3], COUNT):
        answer = await _answer(embedded_agent, entry, body)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, body
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["field"] and error["message"] and error["fix"], body

    assert sum(statuses[status] for status in statuses if status >= 400) > COUNT / 2
    assert (await embedded_agent.get())["id"] == embedded_agent.run_id


async def test_body_that_is_not_utf8_is_refused(embedded_agent: Agent):
    body = b"\x82\xa2\x00\x00\x00\xa9" + bytes(8) + b"\x80"

    answer = await _answer(embedded_agent, "batch", body)

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "wire_version")


@pytest.mark.parametrize(
    ("health", "field"),
    [
        ({"first_failure": "torn\0"}, "health.first_failure"),
        ({"silent": ("fine", "\0")}, "health.silent[1]"),
    ],
)
async def test_nul_in_an_agents_health_is_refused_by_its_field(
    embedded_agent: Agent, health: dict[str, object], field: str
):
    answer = await _answer(embedded_agent, "heartbeat", batch([], **health))

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


@pytest.mark.parametrize(
    ("change", "field"),
    [('{"name": "\\ud800"}', "name"), ('{"tags": ["a", "\\u0000"]}', "tags[1]")],
)
async def test_text_that_no_database_stores_is_refused_by_its_field(
    embedded_agent: Agent, change: str, field: str
):
    answer = await _answer(embedded_agent, "edit", change.encode())

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_search_for_text_that_a_database_refuses_is_no_outage(agent: Agent):
    answer = await agent.client.get("/api/v1/runs", params={"search": "torn\0"})

    assert answer.status_code in (200, 422)  # SQLite looks for it, Postgres refuses


@pytest.mark.parametrize(("levels", "field"), [(65, "config"), (500, "config"), (3_000, "body")])
async def test_config_nested_beyond_what_databases_store_is_refused(
    embedded_agent: Agent, levels: int, field: str
):
    body = msgspec.to_builtins(DECLARATION) | {"config": {"deep": None}}
    text = json.dumps(body).replace('"deep": null', f'"deep": {"[" * levels}{"]" * levels}')

    answer = await _answer(embedded_agent, "declaration", text.encode())

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
