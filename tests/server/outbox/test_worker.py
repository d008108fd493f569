"""Delivery workers on real databases and a real receiver: at least once, in order, by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import structlog

from server.database import Database, connect
from server.metrics import Metrics
from server.outbox import service
from server.outbox.housekeeping import DAY_S, expire_and_purge
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryFilter, TargetRepository
from server.outbox.schemas import Delivery
from server.outbox.signing import Signer
from server.outbox.targets import Target, target_of
from server.outbox.worker import LEASE_S, DeliveryWorker
from server.settings import Settings
from tests.server.outbox.samples import message
from tests.services.process import free_port
from tests.services.receiver import Receiver, Request, listening, receiving

GIVE_UP_S = 3_600.0


class Watch:
    """A clock that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class PickyReceiver(Receiver):
    """Fails at one number for ever, and takes every other."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self._failing = {"number": failing}

    def status_of(self, request: Request) -> int:
        return 500 if self._failing.items() <= request.json.items() else 200


class Sending:
    """One outbox with its targets, and the workers of any number of processes."""

    def __init__(self, database: Database, clock: Watch, *urls: str) -> None:
        self.database = database
        self.clock = clock
        self.metrics = Metrics()
        self.targets = [target_of(url, Signer()) for url in urls]
        names = {target.id: target.name for target in self.targets}
        self.outbox = Outbox(names, give_up_s=GIVE_UP_S)

    def worker(self, target: Target | None = None) -> DeliveryWorker:
        target = target or self.targets[0]
        attempts = self.metrics.deliveries
        return DeliveryWorker(target, self.outbox, self.database, self.clock, attempts)

    async def put(self, *numbers: int) -> None:
        async with self.database.writing() as session:
            await self.outbox.put(session, map(message, numbers), self.clock())

    async def listed(self, status: str | None = None) -> list[Delivery]:
        filters = DeliveryFilter(status)
        page = await service.list_deliveries(self.database, filters, cursor=None, limit=100)
        return page.deliveries

    def counted(self, outcome: str) -> float:
        labels = {"target": self.targets[0].name, "outcome": outcome}
        name = "evenkeel_alert_deliveries_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until_quiet(self, worker: DeliveryWorker) -> None:
        while await worker.send_next():
            pass


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = connect(settings.resolved_database_url)
    yield database
    await database.close()


@pytest.fixture
def clock() -> Watch:
    return Watch()


@asynccontextmanager
async def sending(database: Database, clock: Watch, *urls: str) -> AsyncIterator[Sending]:
    outbox = Sending(database, clock, *urls)
    yield outbox
    for target in outbox.targets:
        await target.close()


def numbers(receiver: Receiver) -> list[object]:
    return [request.json["number"] for request in receiver.requests]


async def test_messages_arrive_in_the_order_of_their_writing(database: Database, clock: Watch):
    async with receiving() as receiver, sending(database, clock, receiver.url) as outbox:
        await outbox.put(3, 1, 2)
        await outbox.put(7, 5)
        await outbox.until_quiet(outbox.worker())

        assert numbers(receiver) == [3, 1, 2, 7, 5]
        assert {row.status for row in await outbox.listed()} == {"delivered"}
        assert outbox.counted("delivered") == 5


async def test_message_of_a_change_that_is_rolled_back_is_not_sent(
    database: Database, clock: Watch
):
    async with receiving() as receiver, sending(database, clock, receiver.url) as outbox:
        with pytest.raises(RuntimeError):
            async with database.writing() as session:
                await outbox.outbox.put(session, [message()], clock())
                raise RuntimeError("the change fails")

        assert not await outbox.worker().send_next()
        assert receiver.requests == []


async def test_every_attempt_has_the_same_idempotency_key(database: Database, clock: Watch):
    async with receiving(503, 500) as receiver, sending(database, clock, receiver.url) as outbox:
        await outbox.put(1)
        for _ in range(3):
            await outbox.until_quiet(outbox.worker())
            clock.now += 10.0

        (row,) = await outbox.listed()
        assert [request.key for request in receiver.requests] == [row.id] * 3
        assert (row.status, row.attempts, row.last_error) == ("delivered", 3, "")
        assert outbox.counted("retried") == 2


async def test_target_is_left_alone_until_its_pause_is_over(database: Database, clock: Watch):
    async with receiving(503) as receiver, sending(database, clock, receiver.url) as outbox:
        await outbox.put(1)
        await outbox.worker().send_next()

        assert not await outbox.worker().send_next()
        (row,) = await outbox.listed("pending")
        assert (row.last_error, row.next_attempt_at) == ("answered 503", clock.now + 1.0)
        clock.now += 1.0
        assert await outbox.worker().send_next()


async def test_order_outlives_a_target_that_was_away(database: Database, clock: Watch):
    port = free_port()
    async with sending(database, clock, f"http://127.0.0.1:{port}/hook") as outbox:
        await outbox.put(1, 2)
        for _ in range(6):
            await outbox.until_quiet(outbox.worker())
            clock.now += 300.0
        await outbox.put(3)

        async with receiving(port=port) as receiver:
            await outbox.until_quiet(outbox.worker())

        assert numbers(receiver) == [1, 2, 3]


async def test_message_that_a_target_never_takes_stops_no_other(database: Database, clock: Watch):
    picky = PickyReceiver(failing=1)
    async with (
        listening(picky.answer) as port,
        sending(database, clock, f"http://127.0.0.1:{port}/hook") as outbox,
    ):
        await outbox.put(1, 2, 3)
        for _ in range(6):
            await outbox.until_quiet(outbox.worker())
            clock.now += 16.0

        assert [row.title[-1] for row in await outbox.listed("delivered")] == ["3", "2"]
        (row,) = await outbox.listed("pending")
        assert row.last_error == "answered 500"


async def test_refused_message_is_kept_as_dead_and_can_be_sent_again(
    database: Database, clock: Watch
):
    async with receiving(404) as receiver, sending(database, clock, receiver.url) as outbox:
        await outbox.put(1, 2)
        await outbox.until_quiet(outbox.worker())
        (dead,) = await outbox.listed("dead")
        assert (dead.attempts, dead.last_error) == (1, "answered 404")

        await service.retry(database, outbox.outbox, dead.id, project=None, now=clock())
        await outbox.until_quiet(outbox.worker())

        assert numbers(receiver) == [1, 2, 1]
        assert receiver.requests[2].key == receiver.requests[0].key
        assert await outbox.listed("dead") == []


async def test_of_many_workers_one_sends(database: Database, clock: Watch):
    async with receiving() as receiver, sending(database, clock, receiver.url) as outbox:
        await outbox.put(*range(8))
        workers = [outbox.worker() for _ in range(4)]

        while await outbox.listed("pending"):
            await asyncio.gather(*(worker.send_next() for worker in workers))

        assert numbers(receiver) == list(range(8))


async def test_worker_that_died_while_it_sent_is_followed_by_another(
    database: Database, clock: Watch
):
    async with receiving() as receiver, sending(database, clock, receiver.url) as outbox:
        await outbox.put(1)
        async with database.writing() as session:  # what a killed process leaves behind
            repository = TargetRepository(session)
            until = clock.now + LEASE_S
            await repository.lease(outbox.targets[0].id, "killed", now=clock.now, until=until)

        clock.now += LEASE_S - 1.0
        assert not await outbox.worker().send_next()
        clock.now += 1.0
        assert await outbox.worker().send_next()

        assert numbers(receiver) == [1]


async def test_worker_that_is_ended_while_it_sends_gives_its_lease_back(
    database: Database, clock: Watch
):
    silent, ended = asyncio.Event(), asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.set()
        await ended.wait()

    port = free_port()
    async with sending(database, clock, f"http://127.0.0.1:{port}/hook") as outbox:
        await outbox.put(1)
        async with listening(never, port):
            ending = asyncio.create_task(outbox.worker().send_next())
            await silent.wait()
            assert outbox.outbox.sends(ending)
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending
            ended.set()
        async with receiving(port=port) as receiver:
            assert await outbox.worker().send_next()

        assert numbers(receiver) == [1]


async def test_target_that_is_away_delays_no_other(database: Database, clock: Watch):
    async with receiving() as receiver:
        away = f"http://127.0.0.1:{free_port()}/hook"
        async with sending(database, clock, away, receiver.url) as outbox:
            await outbox.put(1, 2)
            for target in outbox.targets:
                await outbox.until_quiet(outbox.worker(target))

            assert numbers(receiver) == [1, 2]
            assert len(await outbox.listed("pending")) == 2


async def test_message_is_given_up_in_time_also_where_nobody_knows_its_target(
    database: Database, clock: Watch
):
    async with sending(database, clock, "http://removed.example/hook") as outbox:
        await outbox.put(1)

        await expire_and_purge(database, clock() + GIVE_UP_S - 1.0)
        assert await outbox.listed("dead") == []
        await expire_and_purge(database, clock() + GIVE_UP_S)

        (dead,) = await outbox.listed("dead")
        assert dead.last_error == "no server that knows this target sent it"
        await expire_and_purge(database, clock() + GIVE_UP_S + 31 * DAY_S)
        assert await outbox.listed() == []


async def test_worker_sends_what_is_written_while_it_waits(database: Database, clock: Watch):
    async with receiving() as receiver, sending(database, clock, receiver.url) as outbox:
        worker = outbox.worker()

        async def work() -> None:
            while not receiver.requests:
                await worker.turn()

        working = asyncio.create_task(work())
        await outbox.put(1)
        outbox.outbox.wake()
        await working

        assert numbers(receiver) == [1]


async def test_failing_target_is_logged_once_without_its_secret(database: Database, clock: Watch):
    async with receiving(*[503] * 3) as receiver:
        url = receiver.url.replace("//", "//user:secret@") + "?token=secret"
        async with sending(database, clock, url) as outbox:
            await outbox.put(1)
            worker = outbox.worker()
            with structlog.testing.capture_logs() as logs:
                for _ in range(4):
                    await worker.send_next()
                    clock.now += 10.0

            assert [line["event"] for line in logs] == ["alert_not_delivered"]
            assert "secret" not in repr(logs) + repr(await outbox.listed())
