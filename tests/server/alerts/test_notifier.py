"""Webhooks, against a real HTTP receiver on a free port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from prometheus_client import CollectorRegistry

from server.alerts.notifier import ATTEMPTS, Notifier
from server.alerts.schemas import AdviceInfo, Alert, ScalingInfo
from server.errors import StartError

PAUSE_S = 0.001
# One of apprise's services imports it when they are loaded.
old_imghdr = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


def alert(number: int = 1) -> Alert:
    return Alert(
        id=f"{number:032x}",
        run_id="a" * 32,
        run_name="post-ln",
        rule="rank_collapse",
        severity="critical",
        title="Rank collapse in layers 12–24",
        message="At step 16 …",
        stack="decoder",
        site="stream",
        quantity="correlation",
        first_layer=12,
        last_layer=24,
        step=16,
        last_step=20,
        measured=float("nan"),
        predicted=0.98,
        unit="correlation",
        advice=AdviceInfo(
            text="Restart.", scaling=ScalingInfo(lam=0.957, beta=0.289, n_layers=24, snippet="x")
        ),
        status="open",
        opened_at=1.0,
    )


class Receiver:
    """Answers each request with the next status; keeps what it was sent."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.bodies: list[dict] = []
        self.url = ""
        self._came = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(
            f"HTTP/1.1 {status} -\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        self._came.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.wait_for(self._came.wait(), 20)
                self._came.clear()


@asynccontextmanager
async def listening(answer):
    """A TCP server on a free port, which outlives none of its connections."""
    connections: list[asyncio.Task] = []

    async def connected(reader, writer) -> None:
        connections.append(asyncio.current_task())
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*connections)


@asynccontextmanager
async def receiving(*statuses: int):
    receiver = Receiver(list(statuses))
    async with listening(receiver.answer) as port:
        receiver.url = f"http://127.0.0.1:{port}/hook"
        yield receiver


def counted(registry: CollectorRegistry, outcome: str, scheme: str = "http") -> float:
    labels = {"target": f"{scheme}://127.0.0.1", "outcome": outcome}
    return registry.get_sample_value("evenkeel_alert_deliveries_total", labels) or 0.0


async def settled(
    registry: CollectorRegistry, outcome: str, value: float, scheme: str = "http"
) -> None:
    async with asyncio.timeout(20):
        while counted(registry, outcome, scheme) < value:
            await asyncio.sleep(PAUSE_S)


@pytest.mark.parametrize("scheme", ["http", "json"])
async def test_a_webhook_gets_every_field_of_the_alert_as_json(scheme):
    async with receiving() as receiver:
        url = receiver.url.replace("http", scheme, 1)
        notifier = Notifier([url], CollectorRegistry(), first_pause_s=PAUSE_S)
        async with notifier.running():
            notifier.notify([alert()])
            await receiver.until(lambda: len(receiver.bodies) == 1)

    assert receiver.bodies == [json.loads(alert().model_dump_json())]
    assert receiver.bodies[0]["measured"] == "NaN"
    assert receiver.bodies[0]["advice"]["scaling"]["n_layers"] == 24


async def test_a_webhook_that_fails_is_tried_again_until_it_takes_the_alert():
    registry = CollectorRegistry()
    async with receiving(500, 503, 200) as receiver:
        notifier = Notifier([receiver.url], registry, first_pause_s=PAUSE_S)
        async with notifier.running():
            notifier.notify([alert()])
            await settled(registry, "delivered", 1)

    assert len(receiver.bodies) == 3
    assert counted(registry, "retried") == 2


async def test_a_webhook_that_refuses_is_not_asked_again():
    registry = CollectorRegistry()
    async with receiving(400) as receiver:
        notifier = Notifier([receiver.url], registry, first_pause_s=PAUSE_S)
        async with notifier.running():
            notifier.notify([alert()])
            await settled(registry, "given_up", 1)

    assert len(receiver.bodies) == 1


async def test_a_failing_target_is_logged_once_until_it_succeeds():
    registry = CollectorRegistry()
    failures = [500] * (2 * ATTEMPTS)
    async with receiving(*failures) as receiver:
        notifier = Notifier([receiver.url], registry, first_pause_s=PAUSE_S)
        with structlog.testing.capture_logs() as logs:
            async with notifier.running():
                notifier.notify([alert(1), alert(2), alert(3)])
                await settled(registry, "delivered", 1)

    assert [line["event"] for line in logs] == ["alert_not_delivered"]
    assert counted(registry, "given_up") == 2


async def test_a_target_that_is_away_delays_no_other():
    registry = CollectorRegistry()
    async with receiving() as receiver:
        away = "http://127.0.0.2:1/hook"
        notifier = Notifier([away, receiver.url], registry, first_pause_s=60.0)
        async with notifier.running():
            notifier.notify([alert()])
            await receiver.until(lambda: len(receiver.bodies) == 1)

    assert receiver.bodies[0]["rule"] == "rank_collapse"


@old_imghdr
async def test_other_urls_go_through_apprise():
    mails: list[bytes] = []

    async def smtp(reader, writer):
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.upper().startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                mails.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 kept\r\n")
            elif line.upper().startswith(b"QUIT"):
                break
            else:
                writer.write(b"250 fine\r\n")

    registry = CollectorRegistry()
    async with listening(smtp) as port:
        url = f"mailto://127.0.0.1:{port}?from=a@example.org&to=b@example.org"
        notifier = Notifier([url], registry, first_pause_s=PAUSE_S)
        async with notifier.running():
            notifier.notify([alert()])
            await settled(registry, "delivered", 1, "mailto")

    assert b"Rank_collapse" in mails[0] or b"Rank collapse" in mails[0]


@old_imghdr
@pytest.mark.parametrize("url", ["http://", "nonsense://x", "no url at all"])
def test_a_url_that_is_none_stops_the_start(url):
    with pytest.raises(StartError, match="webhooks"):
        Notifier([url], CollectorRegistry())


async def test_a_secret_in_a_url_reaches_neither_log_nor_metrics():
    registry = CollectorRegistry()
    async with receiving(400) as receiver:
        url = receiver.url.replace("//", "//user:secret@") + "?token=secret"
        with structlog.testing.capture_logs() as logs:
            async with (notifier := Notifier([url], registry)).running():
                notifier.notify([alert()])
                await settled(registry, "given_up", 1)

    assert logs
    assert "secret" not in repr(logs)
