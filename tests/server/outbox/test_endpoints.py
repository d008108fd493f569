"""``/deliveries`` over the API, against a whole server and a real receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from server.access.service import create_key
from server.app import create_app
from server.settings import Settings
from tests.server.outbox.samples import message
from tests.services.polling import eventually
from tests.services.process import free_port
from tests.services.receiver import Receiver, receiving

API = "/api/v1/deliveries"
FIELDS = {
    "id", "target", "kind", "run_id", "severity", "title", "status", "attempts", "last_error",
    "created_at", "expires_at", "attempted_at", "next_attempt_at", "ended_at", "channel", "text",
    "answer", "held", "digest",
}  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def away() -> str:
    return f"http://127.0.0.1:{free_port()}/hook"


@pytest.fixture
def app(embedded: Settings, receiver: Receiver, away: str) -> FastAPI:
    return create_app(embedded.model_copy(update={"webhooks": (receiver.url, away)}))


async def put(app: FastAPI, *numbers: int, project: str = "demo") -> None:
    state = app.state.server
    async with state.database.writing() as session:
        messages = [message(number, project) for number in numbers]
        await app.state.outbox.put(session, messages, state.clock())
    app.state.outbox.wake()


async def listed(client: httpx.AsyncClient, **query: str | int) -> list[dict]:
    answer = await client.get(API, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["deliveries"]


async def until(client: httpx.AsyncClient, count: int, **query: str) -> list[dict]:
    return await eventually(lambda: listed(client, **query), lambda rows: len(rows) == count)


async def test_list_shows_what_arrived_and_what_waits(app: FastAPI, client: httpx.AsyncClient):
    await put(app, 1)
    (arrived,) = await until(client, 1, status="delivered")
    (waiting,) = await eventually(
        lambda: listed(client, status="pending"), lambda rows: rows[0]["attempts"] > 0
    )

    assert set(arrived) == FIELDS
    assert arrived["ended_at"] >= arrived["created_at"]
    assert arrived["next_attempt_at"] is None
    assert waiting["last_error"].startswith("ConnectError")
    assert waiting["next_attempt_at"] > waiting["created_at"]


async def test_pages_follow_the_cursor(app: FastAPI, client: httpx.AsyncClient):
    await put(app, 1, 2)
    first = (await client.get(API, params={"limit": 3})).json()
    second = (await client.get(API, params={"limit": 3, "cursor": first["next_cursor"]})).json()

    ids = [row["id"] for page in (first, second) for row in page["deliveries"]]
    assert (len(ids), len(set(ids)), second["next_cursor"]) == (4, 4, None)


async def test_dead_delivery_is_retried_under_its_key(
    app: FastAPI, client: httpx.AsyncClient, receiver: Receiver
):
    receiver.statuses = [410]
    await put(app, 1)
    (dead,) = await until(client, 1, status="dead")

    answer = await client.post(f"{API}/{dead['id']}/retry")

    assert answer.json()["status"] == "pending"
    await until(client, 0, status="dead")
    await receiver.until(2)
    assert [request.key for request in receiver.requests] == [dead["id"]] * 2


async def test_delivery_that_has_arrived_is_not_sent_again(app: FastAPI, client: httpx.AsyncClient):
    await put(app, 1)
    (arrived,) = await until(client, 1, status="delivered")

    answer = await client.post(f"{API}/{arrived['id']}/retry")

    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "delivery_id")


async def test_unknown_delivery_is_a_404_that_names_the_field(client: httpx.AsyncClient):
    answer = await client.post(f"{API}/{'0' * 32}/retry")

    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "delivery_id")


async def test_test_message_goes_to_every_target_and_says_what_each_answered(
    client: httpx.AsyncClient, receiver: Receiver
):
    answer = await client.post(f"{API}/test")

    good, bad = answer.json()["answers"]
    assert good == {"target": "http://127.0.0.1", "delivered": True, "answer": "answered 200"}
    assert (bad["delivered"], bad["answer"].split(":")[0]) == (False, "ConnectError")
    assert [request.json["kind"] for request in receiver.requests] == ["test"]
    assert await listed(client) == []


@pytest.mark.parametrize("wrong", [{"status": "lost"}, {"limit": 0}, {"run": "x"}, {"cursor": "?"}])
async def test_wrong_question_is_a_422_that_names_the_field(
    client: httpx.AsyncClient, wrong: dict[str, str]
):
    answer = await client.get(API, params=wrong)

    assert answer.status_code == 422
    assert answer.json()["error"]["field"].endswith(next(iter(wrong)))


async def test_key_of_a_project_sees_its_deliveries_alone_and_a_reader_sends_nothing(
    app: FastAPI, client: httpx.AsyncClient
):
    await put(app, 1)
    await put(app, 2, project="private")
    key = await create_key(app.state.server.database, scopes=["read"], project="private")
    headers = {"authorization": f"Bearer {key}"}

    answer = await client.get(API, headers=headers)
    refused = await client.post(f"{API}/test", headers=headers)

    assert {row["title"][-1] for row in answer.json()["deliveries"]} == {"2"}
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_missing")
