from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from sqlalchemy import text

from server.app import create_app
from server.database import connect
from server.errors import StartError
from server.migration import apply, migrate, require_current
from server.run import bind, check
from server.settings import Settings
from tests.services.polling import eventually
from tests.services.postgres import Postgres
from tests.services.serving import running


def test_port_in_use_is_one_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(StartError, match=rf"port: cannot listen on 127.0.0.1:{port}") as error:
            bind(Settings(port=port))

    assert "\n" not in str(error.value)


def test_data_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StartError, match="data_dir: cannot write") as error:
        create_app(Settings(data_dir=tmp_path / "file" / "data"))

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://user@host/name",
        "sqlite+aiosqlite:////nowhere/at/all.db",
        "postgresql+asyncpg://user:secret@127.0.0.1:1/name",
    ],
)
def test_wrong_database_url_is_one_clear_line_without_its_password(tmp_path: Path, url: str):
    with pytest.raises(StartError, match=r"^database_url: ") as error:
        check(Settings(data_dir=tmp_path, database_url=url))

    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_migrating_twice_is_migrating_once(tmp_path: Path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'evenkeel.db'}"

    assert migrate(url) == migrate(url)


async def test_database_of_a_newer_version_stops_the_start(tmp_path: Path):
    database = connect(f"sqlite+aiosqlite:///{tmp_path / 'evenkeel.db'}")
    await apply(database)
    async with database.writing() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'from-later'"))

    for start in (apply, require_current):
        with pytest.raises(StartError, match="newer than this version"):
            await start(database)
    await database.close()


@pytest.mark.services
async def test_postgres_that_is_not_migrated_stops_the_start(tmp_path: Path, postgres: Postgres):
    url = await postgres.empty()
    app = create_app(Settings(data_dir=tmp_path, database_url=url))

    with pytest.raises(StartError, match="evenkeel migrate"):
        async with running(app):
            pass


async def test_restarted_server_still_has_everything(embedded: Settings):
    from tests.services.agent import Agent, frame

    async with running(create_app(embedded)) as client:
        agent = Agent(client)
        await agent.declare()
        await agent.send([frame(1), frame(2)])
        before = await eventually(agent.get, lambda run: run["unjudged"] == 0)

    async with running(create_app(embedded)) as client:
        again = Agent(client, agent.run_id)

        assert await again.get() == before
        assert (await again.declare()).durable == {"0": 2}


@pytest.mark.parametrize(
    ("host", "require_keys", "needed"),
    [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("::1", None, False),
     ("localhost", True, True), ("10.1.2.3", False, False)],
)  # fmt: skip
def test_keys_are_needed_off_loopback(host: str, require_keys: bool | None, needed: bool):
    assert Settings(host=host, require_keys=require_keys).keys_required is needed


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "EVENKEEL_WEBHOOKS", '["json://localhost/hook"]')
    monkeypatch.setitem(os.environ, "EVENKEEL_PORT", "9")

    assert (Settings().port, Settings().webhooks) == (9, ("json://localhost/hook",))


async def test_health_says_that_the_server_is_up_and_ready(embedded: Settings):
    async with running(create_app(embedded)) as client:
        up, ready, counted = [
            await client.get(path) for path in ("/healthz", "/readyz", "/metrics")
        ]

    assert (up.status_code, ready.json()) == (200, {"database": "ok", "bus": "ok", "disk": "ok"})
    assert "evenkeel_frames_committed_total 0.0" in counted.text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("EVENKEEL_REQUIRE_KEY", "EVENKEEL_REQUIRE_KEYS"),
        ("EVENKEEL_DATABASEURL", "EVENKEEL_DATABASE_URL"),
        ("evenkeel_webhook", "EVENKEEL_WEBHOOKS"),
    ],
)
def test_a_setting_that_does_not_exist_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
):
    monkeypatch.setenv(typed, "true")

    with pytest.raises(StartError, match=f"^{typed}: .* did you mean {meant}[?]"):
        Settings()


@pytest.mark.parametrize(
    "name", ["EVENKEEL_URL", "EVENKEEL_KEY", "EVENKEEL_TAKE_OVER", "EVENKEEL_PUBLISHED_PORT"]
)
def test_what_the_agent_reads_does_not_end_the_start(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "1")

    Settings()
