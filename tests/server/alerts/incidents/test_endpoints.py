"""``/incidents`` and ``/silences`` over the API, against a whole server and a real receiver."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from server.access.service import create_key
from server.app import create_app
from server.settings import Settings
from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from tests.services.receiver import Receiver, receiving

API = "/api/v1"
FIELDS = {
    "id", "run_id", "run_name", "domain", "cause", "rule", "severity", "title", "message", "advice",
    "stack", "site", "first_layer", "last_layer", "first_step", "last_step", "status", "note",
    "opened_at", "resolved_at", "root", "alerts", "timeline",
}  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def app(embedded: Settings, receiver: Receiver) -> FastAPI:
    return create_app(embedded.model_copy(update={"webhooks": (receiver.url,)}))


async def fail(client: httpx.AsyncClient) -> dict:
    """A run whose loss becomes NaN; returns its incident."""
    agent = Agent(client)
    await agent.declare()
    await agent.send([frame(1), frame(2, values=vector(2, loss=math.nan))])

    async def incidents() -> list[dict]:
        answer = await client.get(f"{API}/incidents", params={"run": agent.run_id})
        return answer.json()["incidents"]

    (incident,) = await eventually(incidents, bool)
    return incident


async def act(client: httpx.AsyncClient, incident: dict, action: str) -> dict:
    answer = await client.post(f"{API}/incidents/{incident['id']}/{action}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_incident_has_the_fields_of_the_contract(client: httpx.AsyncClient):
    incident = await fail(client)

    assert set(incident) == FIELDS
    assert (incident["cause"], incident["rule"], incident["first_step"]) == ("loss", "nonfinite", 2)
    assert set(incident["timeline"][0]) == {"at", "step", "kind", "alert", "text"}
    assert (await client.get(f"{API}/incidents/{incident['id']}")).json() == incident


async def test_webhook_receives_the_incident_and_what_happened_to_it(
    client: httpx.AsyncClient, receiver: Receiver
):
    incident = await fail(client)
    await receiver.until(1)
    resolved = await act(client, incident, "resolve")
    opened, ended = await receiver.until(2)

    assert opened.headers["evenkeel-kind"] == "incident.opened"
    assert opened.json == {**incident, "kind": "incident.opened"}
    assert ended.json == {**resolved, "kind": "incident.resolved"}
    assert opened.json["alerts"][0]["measured"] == "NaN"


async def test_actions_follow_each_other_and_are_undone(client: httpx.AsyncClient):
    incident = await fail(client)

    statuses = [
        (await act(client, incident, action))["status"]
        for action in ("acknowledge", "reopen", "resolve", "resolve", "reopen")
    ]

    assert statuses == ["acknowledged", "open", "resolved", "resolved", "open"]
    answer = await client.get(f"{API}/incidents/{incident['id']}")
    kinds = [line["kind"] for line in answer.json()["timeline"]]
    assert kinds == ["opened", "acknowledged", "reopened", "resolved", "reopened"]


async def test_status_and_cursor_narrow_the_list(client: httpx.AsyncClient):
    first, second = await fail(client), await fail(client)
    await act(client, first, "resolve")

    open_ones = (await client.get(f"{API}/incidents", params={"status": "open"})).json()
    page = (await client.get(f"{API}/incidents", params={"limit": 1})).json()
    rest = await client.get(f"{API}/incidents", params={"limit": 1, "cursor": page["next_cursor"]})

    assert [each["id"] for each in open_ones["incidents"]] == [second["id"]]
    assert [page["incidents"][0]["id"], rest.json()["incidents"][0]["id"]] == [
        second["id"],
        first["id"],
    ]
    assert rest.json()["next_cursor"] is None


async def test_note_is_kept(client: httpx.AsyncClient):
    incident = await fail(client)

    answer = await client.put(f"{API}/incidents/{incident['id']}/note", json={"note": "overflow"})

    assert answer.json()["note"] == "overflow"


async def test_silenced_rule_reaches_no_webhook(client: httpx.AsyncClient, receiver: Receiver):
    answer = await client.post(f"{API}/silences", json={"rule": "nonfinite", "seconds": 600})
    silence = answer.json()

    incident = await fail(client)

    listed = (await client.get(f"{API}/silences")).json()["silences"]
    deliveries = (await client.get(f"{API}/deliveries")).json()["deliveries"]
    assert (answer.status_code, listed) == (201, [silence])
    assert (incident["status"], deliveries, receiver.requests) == ("open", [], [])
    assert (await client.delete(f"{API}/silences/{silence['id']}")).status_code == 204
    assert (await client.get(f"{API}/silences")).json()["silences"] == []


async def test_silence_of_a_tag_reaches_no_webhook_until_it_ends(
    client: httpx.AsyncClient, receiver: Receiver
):
    request = {"tag": "nightly", "seconds": 600}
    silence = (await client.post(f"{API}/silences", json=request)).json()
    agent = Agent(client)
    await agent.declare()
    await client.patch(f"{API}/runs/{agent.run_id}", json={"tags": ["nightly"]})
    await agent.send([frame(1), frame(2, values=vector(2, loss=math.nan))])
    await fail(client)  # of another run, which has no tag

    (opened,) = await receiver.until(1)
    assert opened.json["run_id"] != agent.run_id
    await client.delete(f"{API}/silences/{silence['id']}")
    _, told_late = await receiver.until(2)
    assert told_late.json["run_id"] == agent.run_id


async def test_silence_of_an_incident_is_in_its_timeline_and_names_it(client: httpx.AsyncClient):
    incident = await fail(client)
    request = {"incident": incident["id"], "seconds": 600, "note": "known"}
    silence = (await client.post(f"{API}/silences", json=request)).json()
    await client.delete(f"{API}/silences/{silence['id']}")

    after = (await client.get(f"{API}/incidents/{incident['id']}")).json()
    lines = [(line["kind"], line["text"]) for line in after["timeline"][-2:]]
    assert (silence["incident_title"], silence["run_name"]) == (
        incident["title"],
        incident["run_name"],
    )
    assert lines[0][0] == "silenced" and lines[0][1].endswith(": known")
    assert lines[1] == ("unsilenced", "")
    unknown = await client.post(f"{API}/silences", json={"incident": "0" * 32, "seconds": 5})
    assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "incident_id")


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", f"incidents/{'0' * 32}", "incident_id"),
        ("POST", f"incidents/{'0' * 32}/resolve", "incident_id"),
        ("DELETE", f"silences/{'0' * 32}", "silence_id"),
    ],
)
async def test_unknown_address_is_a_404_that_names_the_field(
    client: httpx.AsyncClient, method: str, path: str, field: str
):
    answer = await client.request(method, f"{API}/{path}")

    assert (answer.status_code, answer.json()["error"]["field"]) == (404, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rule": "nonfinite"}, "seconds"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 1e12}, "seconds"),
        ({"seconds": 5, "run": "x"}, "run"),
        ({"seconds": 5, "rule": ""}, "rule"),
        ({"seconds": 5, "tag": ""}, "tag"),
        ({"seconds": 5, "incident": "x"}, "incident"),
        ({"seconds": 5, "note": "\0"}, "note"),
        ({"seconds": 5, "ruel": "x"}, "ruel"),
    ],
)
async def test_wrong_silence_is_a_422_that_names_the_field(
    client: httpx.AsyncClient, body: dict, field: str
):
    answer = await client.post(f"{API}/silences", json=body)

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_reader_changes_nothing(app: FastAPI, client: httpx.AsyncClient):
    incident = await fail(client)
    key = await create_key(app.state.server.database, scopes=["read"])
    headers = {"authorization": f"Bearer {key}"}

    answers = [
        await client.post(f"{API}/incidents/{incident['id']}/resolve", headers=headers),
        await client.post(f"{API}/silences", json={"seconds": 5}, headers=headers),
        await client.put(
            f"{API}/incidents/{incident['id']}/note", json={"note": ""}, headers=headers
        ),
    ]

    assert {answer.status_code for answer in answers} == {403}
