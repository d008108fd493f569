from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from server.access import sessions
from server.access.service import create_key, list_keys, login_url, revoke_key
from server.app import create_app
from server.database import Database
from server.errors import InvalidField
from server.settings import Settings
from tests.services.agent import LAYOUT, Agent, batch, frame
from tests.services.serving import running
from wire import RunDeclaration


@pytest.fixture
def locked(settings: Settings) -> FastAPI:
    """An app that needs keys."""
    return create_app(settings.model_copy(update={"require_keys": True}))


@pytest.fixture
async def stranger(locked: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with running(locked) as client:
        yield client


@pytest.fixture
def database(locked: FastAPI) -> Database:
    return locked.state.server.database


def _with(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_locked_server_refuses_who_brings_no_key(stranger: httpx.AsyncClient):
    answer = await stranger.get("/api/v1/runs")

    assert answer.status_code == 401
    assert answer.json()["error"]["field"] == "key"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_open_server_refuses_a_wrong_key(client: httpx.AsyncClient):
    assert (await client.get("/api/v1/runs")).status_code == 200

    answer = await client.get("/api/v1/runs", headers=_with("ek_wrong"))

    assert (answer.status_code, answer.json()["error"]["field"]) == (401, "key")


async def test_key_is_stored_only_as_a_digest(stranger: httpx.AsyncClient, database: Database):
    key = await create_key(database, scopes=["read"], label="laptop")

    (info,) = await list_keys(database)

    assert key not in repr(info)
    assert (info.label, info.scopes) == ("laptop", ("read",))
    assert (await stranger.get("/api/v1/runs", headers=_with(key))).status_code == 200


async def test_revoked_key_is_refused(stranger: httpx.AsyncClient, database: Database):
    key = await create_key(database, scopes=["admin"])
    (info,) = await list_keys(database)

    assert await revoke_key(database, info.id)
    assert not await revoke_key(database, info.id)

    assert (await stranger.get("/api/v1/runs", headers=_with(key))).status_code == 401


async def test_unknown_scope_makes_no_key(stranger: httpx.AsyncClient, database: Database):
    with pytest.raises(InvalidField, match="own"):
        await create_key(database, scopes=["own"])  # type: ignore[list-item]

    assert await list_keys(database) == []


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("read", "PUT", ""),
        ("read", "POST", "/frames"),
        ("ingest", "GET", ""),
        ("ingest", "GET", "/steps"),
        ("read", "PATCH", ""),
    ],
)
async def test_key_without_the_scope_is_refused(
    stranger: httpx.AsyncClient, database: Database, scope: str, method: str, path: str
):
    admin = await create_key(database, scopes=["admin"])
    key = await create_key(database, scopes=[scope])  # type: ignore[list-item]
    stranger.headers.update(_with(admin))
    agent = Agent(stranger)
    await agent.declare()

    answer = await stranger.request(method, agent.path(path), headers=_with(key), json={})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")


async def test_key_of_one_project_sees_no_other(stranger: httpx.AsyncClient, database: Database):
    admin = await create_key(database, scopes=["admin"])
    narrow = await create_key(database, scopes=["read", "ingest"], project="mine")
    stranger.headers.update(_with(admin))
    theirs, ours = Agent(stranger), Agent(stranger)
    await theirs.declare(project="theirs")
    await ours.declare(project="mine")
    stranger.headers.update(_with(narrow))

    listed = (await stranger.get("/api/v1/runs")).json()["runs"]
    refused = await stranger.get(theirs.path())
    intruding = RunDeclaration(project="theirs", name="x", layout=LAYOUT)
    declared = await stranger.put(ours.path(), content=msgspec.json.encode(intruding))

    assert [run["id"] for run in listed] == [ours.run_id]
    assert (refused.status_code, declared.status_code) == (403, 403)
    await ours.send([frame(1)])


async def test_login_url_lets_one_browser_in_once(stranger: httpx.AsyncClient, database: Database):
    url = urlsplit(await login_url(database, "http://127.0.0.1"))
    assert (await stranger.get("/")).status_code == 401

    first = await stranger.get(f"{url.path}?{url.query}")
    second = await stranger.get(f"{url.path}?{url.query}")

    cookie = first.headers["set-cookie"].lower()
    assert first.status_code == 303
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert (await stranger.get("/api/v1/runs")).status_code == 200
    assert second.status_code == 401


def test_cookie_is_good_only_unaltered_and_while_it_lasts():
    cookie, later = (sessions.issue(b"secret", issued) for issued in (1000.0, 9000.0))
    nonce, _, signature = cookie.split(".")
    made_later = ".".join([nonce, later.split(".")[1], signature])

    assert sessions.is_valid(b"secret", cookie, 1001.0)
    assert sessions.is_valid(b"secret", cookie, 1000.0 + sessions.LIFETIME_S)
    assert not sessions.is_valid(b"secret", cookie, 1001.0 + sessions.LIFETIME_S)
    assert not sessions.is_valid(b"secret", later, 1001.0)
    assert not sessions.is_valid(b"other", cookie, 1001.0)
    assert not sessions.is_valid(b"secret", made_later, 9001.0)
    assert not sessions.is_valid(b"secret", "", 1001.0)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7:8000", ""])
async def test_open_server_refuses_a_rebound_name(client: httpx.AsyncClient, host: str):
    answer = await client.get("/api/v1/runs", headers={"host": host})

    assert (answer.status_code, answer.json()["error"]["field"]) == (403, "host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:9"])
async def test_open_server_answers_on_loopback_names(client: httpx.AsyncClient, host: str):
    assert (await client.get("/api/v1/runs", headers={"host": host})).status_code == 200


async def test_page_of_another_site_cannot_write(agent: Agent):
    headers = {"origin": "http://evil.example", "content-type": "text/plain"}

    answer = await agent.client.post(agent.path("/frames"), content=batch([]), headers=headers)

    assert (answer.status_code, answer.json()["error"]["field"]) == (403, "origin")


async def test_secret_stays_the_same_over_a_restart(embedded: Settings):
    first = sessions.secret_of(embedded)

    assert sessions.secret_of(embedded) == first
    assert (embedded.data_dir / "cookie-secret").stat().st_mode & 0o077 == 0
