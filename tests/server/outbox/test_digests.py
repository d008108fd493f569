"""A channel's limit on real databases: so many messages, then one that names the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.database import Database, connect
from server.metrics import Metrics
from server.outbox import service
from server.outbox.channels.repository import ChannelRepository
from server.outbox.channels.rows import ChannelRow, RateLimit
from server.outbox.channels.targets import target_of_channel
from server.outbox.digests import LINES, digest_of
from server.outbox.housekeeping import expire_and_purge
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryFilter
from server.outbox.schemas import Delivery
from server.outbox.targets import Target
from server.outbox.worker import DeliveryWorker
from server.settings import Settings
from tests.server.outbox.samples import delivery, message
from tests.services.receiver import Receiver, receiving

CHANNEL = "c" * 16
GIVE_UP_S = 3_600.0
LIMIT = RateLimit(most=2, window_s=600.0)


class Watch:
    """A clock that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Sending:
    """One channel with a limit, and the workers of any number of processes, one after another."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.clock = Watch()
        self.outbox = Outbox({}, give_up_s=GIVE_UP_S)
        self.target: Target = target_of_channel(url, [])
        self.url = url

    async def create(self) -> None:
        row = ChannelRow(
            CHANNEL, None, "On call", self.url, [], enabled=True, title_template="",
            text_template="", most=LIMIT.most, window_s=LIMIT.window_s, created_at=0.0,
        )  # fmt: skip
        async with self.database.writing() as session:
            await ChannelRepository(session).add(row)

    async def put(self, *numbers: int) -> None:
        async with self.database.writing() as session:
            await self.outbox.put(session, map(message, numbers), self.clock())

    async def drain(self, limit: RateLimit | None = LIMIT) -> None:
        """A fresh worker, as after a restart, sends what it may send now."""
        attempts = Metrics().deliveries
        worker = DeliveryWorker(
            self.target, self.outbox, self.database, self.clock, attempts,
            target_id=CHANNEL, limit=limit,
        )  # fmt: skip
        while await worker.send_next():
            pass

    async def listed(self, status: str | None = None) -> list[Delivery]:
        filters = DeliveryFilter(status)
        page = await service.list_deliveries(self.database, filters, cursor=None, limit=100)
        return page.deliveries


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = connect(settings.resolved_database_url)
    yield database
    await database.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def channel(database: Database, receiver: Receiver) -> AsyncIterator[Sending]:
    sending = Sending(database, receiver.url)
    await sending.create()
    yield sending
    await sending.target.close()


def told(receiver: Receiver) -> list[object]:
    """Each request's number, or how many messages it names."""
    bodies = [request.json for request in receiver.requests]
    return [body.get("number") or len(body["messages"]) for body in bodies]  # type: ignore[arg-type]


async def test_what_is_beyond_the_limit_is_held_and_told_in_one_digest(
    channel: Sending, receiver: Receiver
):
    await channel.put(11, 12, 13, 14)
    await channel.drain()
    assert told(receiver) == [11, 12]
    held = await channel.listed("pending")
    assert [row.held for row in held] == [True, True]

    channel.clock.now += LIMIT.window_s - 1.0
    await channel.drain()
    assert told(receiver) == [11, 12]
    await channel.put(15)
    channel.clock.now += 1.0
    await channel.drain()

    assert told(receiver) == [11, 12, 3]
    body = receiver.requests[2].json
    assert body["kind"] == "digest"
    assert [entry["title"][-2:] for entry in body["messages"]] == ["13", "14", "15"]
    digest = next(row for row in await channel.listed("delivered") if row.kind == "digest")
    members = await channel.listed("digested")
    assert {row.digest for row in members} == {digest.id}
    assert {entry["id"] for entry in body["messages"]} == {row.id for row in members}


async def test_one_message_that_was_held_is_sent_as_itself(channel: Sending, receiver: Receiver):
    await channel.put(11, 12, 13)
    await channel.drain()
    channel.clock.now += LIMIT.window_s
    await channel.drain()

    assert told(receiver) == [11, 12, 13]


async def test_digest_is_sent_again_under_its_key_until_it_is_taken(
    channel: Sending, receiver: Receiver
):
    await channel.put(11, 12, 13, 14)
    await channel.drain()
    channel.clock.now += LIMIT.window_s
    receiver.statuses = [503]
    await channel.drain()
    await channel.put(15)
    channel.clock.now += 10.0
    await channel.drain()

    assert told(receiver) == [11, 12, 2, 2, 15]
    assert receiver.requests[2].key == receiver.requests[3].key


async def test_what_waits_for_its_channel_is_not_given_up_for_it(
    channel: Sending, receiver: Receiver
):
    await channel.put(11, 12, 13, 14)
    channel.outbox.give_up_s = 60.0
    await channel.drain()
    await expire_and_purge(channel.database, channel.clock.now + LIMIT.window_s)

    assert len(await channel.listed("pending")) == 2


async def test_limit_that_is_taken_away_tells_at_once_what_was_held(
    channel: Sending, receiver: Receiver
):
    await channel.put(11, 12, 13, 14)
    await channel.drain()
    await channel.drain(limit=None)
    await channel.put(15)
    await channel.drain(limit=None)

    assert told(receiver) == [11, 12, 2, 15]


def test_digest_says_the_worst_first_and_names_every_message_in_its_json():
    rows = [delivery(number=n, title=f"message {n}", severity="warning") for n in range(60)]
    rows.append(delivery(number=60, title="the last", severity="critical"))

    digest = digest_of(rows)

    assert (digest.severity, digest.project) == ("critical", "demo")
    assert digest.title == "evenkeel: 61 messages (1 critical, 60 warning)"
    assert digest.text.count("\n- ") == LINES
    assert digest.text.endswith("- and 11 more")
    assert digest.body.count('"title"') == 62
