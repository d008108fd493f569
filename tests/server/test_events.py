"""Events of another version on a shared bus are passed over, and said once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from server import events
from server.bus import open_bus
from server.bus.protocol import PAGES
from server.database import connect
from server.events import RunEvent, decode, publish
from server.live.hub import Hub
from server.metrics import Metrics
from server.settings import Settings


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_unknown_kinds", set())


@pytest.mark.parametrize(
    "message",
    [{"type": "from tomorrow", "run": "a"}, {"type": "frame", "run": "a"}, {"run": "a"}, [1], 7],
)
def test_event_of_another_version_is_none_and_logged_once(message: object):
    body = msgspec.msgpack.encode(message)

    with structlog.testing.capture_logs() as logs:
        assert [decode(body) for _ in range(3)] == [None] * 3

    assert [line["event"] for line in logs] == ["unknown_event_skipped"]


@given(st.binary(max_size=60))
def test_bytes_that_are_no_event_never_raise(body: bytes):
    assert decode(body) is None or body


async def test_page_receives_what_follows_an_event_that_nobody_here_knows(settings: Settings):
    database, bus = connect(settings.resolved_database_url), open_bus(settings)
    hub = Hub(bus, database, Metrics())
    listening = asyncio.create_task(hub.listen())
    known = asyncio.Event()
    hub._defer = lambda _: known.set()  # type: ignore[method-assign]
    try:
        async with hub.open_queue(None, None) as queue:
            while not known.is_set():  # until the subscription stands
                await bus.publish(PAGES, msgspec.msgpack.encode({"type": "from tomorrow"}))
                await bus.publish(PAGES, b"\xc1")
                await publish(bus, [RunEvent("a" * 32)])
                await asyncio.sleep(0.01)

            assert not listening.done()
            assert not queue.closed
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await bus.close()
        await database.close()
