"""``/channels`` and ``/routes`` over the API, against a whole server and real receivers."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from server.access.service import create_key
from server.app import create_app
from server.outbox.signing import Signer
from server.settings import Settings
from tests.server.outbox.samples import message
from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from tests.services.receiver import Receiver, receiving

API = "/api/v1"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
old_imghdr = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def app(settings: Settings, receiver: Receiver) -> FastAPI:
    fixed = receiver.url + "/settings?token=s3cr3t"
    return create_app(
        settings.model_copy(update={"webhooks": (fixed,), "public_url": "https://keel.example"})
    )


async def create(client: httpx.AsyncClient, url: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "On call", "url": url, **fields}
    answer = await client.post(f"{API}/channels", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def put(app: FastAPI, *numbers: int, **fields: Any) -> None:
    state = app.state.server
    async with state.database.writing() as session:
        messages = [message(number, **fields) for number in numbers]
        await app.state.outbox.put(session, messages, state.clock())
    app.state.outbox.wake()


async def delivered(client: httpx.AsyncClient, channel: str, count: int) -> list[dict[str, Any]]:
    async def rows() -> list[dict[str, Any]]:
        query = {"channel": channel, "status": "delivered"}
        return (await client.get(f"{API}/deliveries", params=query)).json()["deliveries"]

    return await eventually(rows, lambda rows: len(rows) == count)


async def test_message_reaches_a_channel_signed_and_neither_url_nor_secret_is_shown_or_logged(
    app: FastAPI, client: httpx.AsyncClient, receiver: Receiver
):
    with structlog.testing.capture_logs() as logs:
        receiver.statuses = [503, 503]
        url = receiver.url + "/T0KEN-s3cr3t"
        made = await create(client, url, secrets=[SECRET])
        await put(app, 1)
        (row,) = await delivered(client, made["id"], 1)

    assert (row["target"], row["answer"]) == ("On call", "answered 200")
    request = next(
        r for r in receiver.requests if r.key == row["id"] and "webhook-signature" in r.headers
    )
    sent_at = float(request.headers["webhook-timestamp"])
    expected = Signer([SECRET]).headers(request.key, request.body, sent_at)
    assert {name: request.headers[name] for name in expected} == expected
    answers = [await client.get(f"{API}/{name}") for name in ("channels", "deliveries", "routes")]
    shown = repr(made) + "".join(answer.text for answer in answers) + repr(logs)
    assert "s3cr3t" not in shown
    assert SECRET.removeprefix("whsec_") not in shown


async def test_channels_of_the_settings_are_listed_and_cannot_be_changed(
    client: httpx.AsyncClient, receiver: Receiver
):
    (fixed,) = (await client.get(f"{API}/channels")).json()["channels"]
    assert (fixed["source"], fixed["address"]) == ("settings", "http://127.0.0.1")

    refused = await client.delete(f"{API}/channels/{fixed['id']}")
    tested = await client.post(f"{API}/channels/{fixed['id']}/test")

    assert (refused.status_code, refused.json()["error"]["field"]) == (409, "channel_id")
    assert tested.json()["answer"] == "answered 200"


async def test_change_keeps_what_it_does_not_name_and_what_waits_follows_the_url(
    app: FastAPI, client: httpx.AsyncClient, receiver: Receiver
):
    async with receiving(*[503] * 50) as former:
        made = await create(client, former.url, secrets=[SECRET])
        await put(app, 1)
        await former.until(1)

        change = {"name": "Night", "url": receiver.url}
        answer = await client.patch(f"{API}/channels/{made['id']}", json=change)
        await _wake_target(app, made["id"])
        (row,) = await delivered(client, made["id"], 1)

    assert answer.json()["signed"] is True
    assert row["target"] == "Night"
    assert any(request.key == row["id"] for request in receiver.requests)


async def _wake_target(app: FastAPI, target: str) -> None:
    from server.outbox.repository import TargetRepository

    async with app.state.server.database.writing() as session:
        await TargetRepository(session).wake(target)
    app.state.outbox.wake()


async def test_channel_that_is_deleted_leaves_its_messages_as_dead(
    app: FastAPI, client: httpx.AsyncClient
):
    async with receiving(*[503] * 50) as away:
        made = await create(client, away.url)
        route = {"channel": made["id"], "severity": "critical"}
        assert (await client.post(f"{API}/routes", json=route)).status_code == 201
        await put(app, 1)
        await away.until(1)
        assert (await client.delete(f"{API}/channels/{made['id']}")).status_code == 204

    query = {"channel": made["id"]}
    (row,) = (await client.get(f"{API}/deliveries", params=query)).json()["deliveries"]
    assert (row["status"], row["last_error"]) == ("dead", "its channel was deleted")
    assert (await client.get(f"{API}/routes")).json()["routes"] == []
    retried = await client.post(f"{API}/deliveries/{row['id']}/retry")
    assert (retried.status_code, retried.json()["error"]["field"]) == (409, "delivery_id")


async def test_incident_is_routed_by_tag_and_reads_in_the_channels_words(
    client: httpx.AsyncClient, receiver: Receiver
):
    words = {"title_template": "[{severity}] {run} at {step}", "text_template": "{link}"}
    tagged = await create(client, receiver.url + "/tagged", **words)
    other = await create(client, receiver.url + "/other")
    for channel, tag in ((tagged, "nightly"), (other, "weekly")):
        route = {"channel": channel["id"], "tag": tag}
        assert (await client.post(f"{API}/routes", json=route)).status_code == 201
    agent = Agent(client)
    await agent.declare()
    await client.patch(f"{API}/runs/{agent.run_id}", json={"tags": ["nightly"]})
    await agent.send([frame(1), frame(2, values=vector(2, loss=math.nan))])

    (row,) = await delivered(client, tagged["id"], 1)

    assert row["title"].startswith("[critical] ")
    assert row["title"].endswith(" at 2")
    assert row["text"] == f"https://keel.example/runs/{agent.run_id}?step=2"
    assert await delivered(client, other["id"], 0) == []


@old_imghdr
async def test_mail_is_sent_in_the_channels_words(client: httpx.AsyncClient):
    from tests.server.outbox.test_targets import listening

    mails: list[bytes] = []

    async def smtp(reader: Any, writer: Any) -> None:
        writer.write(b"220 here\r\n")
        with suppress(ConnectionError):
            while line := await reader.readline():
                if line.upper().startswith(b"DATA"):
                    writer.write(b"354 go\r\n")
                    mails.append(await reader.readuntil(b"\r\n.\r\n"))
                    writer.write(b"250 kept\r\n")
                elif line.upper().startswith(b"QUIT"):
                    break
                else:
                    writer.write(b"250 fine\r\n")

    async with listening(smtp) as port:
        url = f"mailto://127.0.0.1:{port}?from=a@example.org&to=b@example.org"
        made = await create(client, url, title_template="KEEL {title}")
        answer = await client.post(f"{API}/channels/{made['id']}/test")

    assert answer.json()["answer"] == "apprise delivered it"
    assert b"KEEL" in mails[0]


@old_imghdr
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "slack://s3cr3t"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "no url"}, "url"),
        ({"secrets": ["s3cr3t"]}, "secrets"),
        ({"title_template": "{s3cr3t}"}, "title_template"),
        ({"text_template": "{"}, "text_template"),
        ({"limit": {"most": 0, "window_s": 60}}, "limit.most"),
        ({"limit": {"most": 1, "window_s": 1e9}}, "limit.window_s"),
        ({"name": ""}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_wrong_channel_is_a_422_that_names_the_field_and_no_secret(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
):
    good = {"name": "On call", "url": "http://127.0.0.1:9/hook"}
    answer = await client.post(f"{API}/channels", json={**good, **body})

    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert answer.json()["error"]["fix"]
    if field in ("url", "secrets"):
        assert "s3cr3t" not in answer.text


async def test_key_of_a_project_sees_and_makes_its_own_channels_alone(
    app: FastAPI, client: httpx.AsyncClient, receiver: Receiver
):
    everyones = await create(client, receiver.url)
    database = app.state.server.database
    key = await create_key(database, scopes=["admin"], project="private")
    headers = {"authorization": f"Bearer {key}"}
    body = {"name": "Ours", "url": receiver.url + "/ours"}
    ours = (await client.post(f"{API}/channels", json=body, headers=headers)).json()

    listed = (await client.get(f"{API}/channels", headers=headers)).json()["channels"]
    path = f"{API}/channels/{everyones['id']}"
    theirs = await client.patch(path, json={"name": "x"}, headers=headers)
    path = f"{API}/channels/{ours['id']}"
    widened = await client.patch(path, json={"project": None}, headers=headers)
    elsewhere = await client.patch(path, json={"project": "demo"}, headers=headers)
    reader = await create_key(database, scopes=["read"])
    refused = await client.post(
        f"{API}/channels", json=body, headers={"authorization": f"Bearer {reader}"}
    )

    assert [channel["name"] for channel in listed] == ["Ours"]
    assert (theirs.status_code, widened.json()["project"]) == (404, "private")
    assert (elsewhere.status_code, elsewhere.json()["error"]["field"]) == (422, "project")
    assert refused.status_code == 403
    await put(app, 1, project="private")
    await put(app, 2, project="demo")
    (row,) = await delivered(client, ours["id"], 1)
    assert row["title"][-1] == "1"


async def test_channel_that_is_switched_off_is_told_nothing(
    app: FastAPI, client: httpx.AsyncClient, receiver: Receiver
):
    made = await create(client, receiver.url, enabled=False)
    await put(app, 1)
    query = {"channel": made["id"]}
    assert (await client.get(f"{API}/deliveries", params=query)).json()["deliveries"] == []

    await client.patch(f"{API}/channels/{made['id']}", json={"enabled": True})
    await put(app, 2)

    await delivered(client, made["id"], 1)


async def test_secret_that_is_made_is_shown_once_and_the_former_one_goes_on_signing(
    app: FastAPI, client: httpx.AsyncClient, receiver: Receiver
):
    made = await create(client, receiver.url, secrets=[SECRET])
    path = f"{API}/channels/{made['id']}"
    changed = (await client.patch(path, json={"generate_secret": True})).json()
    again = (await client.patch(path, json={"name": "Night"})).json()
    await client.post(f"{path}/test")
    (request,) = await receiver.until(1)

    assert changed["secret"].startswith("whsec_")
    assert again["secret"] is None
    assert len(request.headers["webhook-signature"].split()) == 2
