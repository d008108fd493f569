"""What the exporter sends and when, with a clock that the test moves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer_agent.delivery import messages
from trainer_agent.delivery.exporter import Exporter
from trainer_agent.delivery.intervals import ExportIntervals
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Refused, Unreachable
from wire import (
    Command,
    Frame,
    FrameBatch,
    FramesReceipt,
    Layout,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    Series,
    SpecRevision,
)

LAYOUT = Layout((Series("", "loss", "value", 1),))
OTHER = Layout((Series("", "accuracy", "value", 1),))


class Server:
    """Answers as the test says; `watermark` is what it calls durable, None for all that it got."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.batches: list[FrameBatch] = []
        self.failures: list[Exception] = []
        self.refuse_seq: int | None = None
        self.watermark: int | None = None
        self.commands: list[Command] = []

    def _receive(self, request: str) -> None:
        self.requests.append(request)
        if self.failures:
            raise self.failures.pop(0)

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        self._receive(f"declare {declaration.layout.series[0].site}")
        return RunReceipt(run_id, {"0": self.watermark or 0}, f"/runs/{run_id}")

    def describe(self, run_id: str, revision: SpecRevision) -> None:
        self._receive(f"describe {revision.step}")

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        self._receive(f"send {[frame.seq for frame in batch.frames]}")
        if self.refuse_seq in [frame.seq for frame in batch.frames]:
            raise Refused(422, field="frames", message="poisonous", fix="do not")
        self.batches.append(batch)
        newest = max((frame.seq for sent in self.batches for frame in sent.frames), default=0)
        watermark = newest if self.watermark is None else self.watermark
        return FramesReceipt(watermark, len(batch.frames), 0, self.commands)

    def end(self, run_id: str, end: RunEnd) -> None:
        self._receive(f"end {end.status}")

    def close(self) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool(Path(":memory:"), limit_bytes=1 << 20)
    messages.put_declaration(spool, RunDeclaration(project="p", name="r", layout=LAYOUT))
    yield spool
    spool.close()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exporter(spool: Spool, server: Server, clock: Clock) -> Exporter:
    return Exporter(
        spool,
        server,
        run_id="r",
        rank=0,
        server="http://away",
        intervals=ExportIntervals(),
        clock=clock,
    )


def put(spool: Spool, *seqs: int) -> None:
    for seq in seqs:
        values = np.zeros(1, dtype=np.float32)
        spool.append(Frame.pack(seq=seq, step=seq, time=0.0, layout=LAYOUT.hash, values=values))


def seqs(spool: Spool) -> list[int]:
    return [frame.seq for frame in spool.read(after=0, max_frames=999, max_bytes=1 << 30)]


def test_a_run_is_declared_then_described_then_sent(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    messages.put_revision(spool, SpecRevision(step=0, spec={}))
    messages.put_end(spool, RunEnd(status="finished"))
    put(spool, 1, 2)

    exporter.export()
    exporter.export()

    assert server.requests == ["declare loss", "describe 0", "send [1, 2]", "end finished"]
    assert exporter.delivered
    assert exporter.page == "/runs/r"


def test_only_what_is_durable_leaves_the_spool(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    server.watermark = 1
    put(spool, 1, 2, 3)

    exporter.export()

    assert seqs(spool) == [2, 3]
    assert not exporter.delivered


def test_frames_are_not_sent_again_while_the_watermark_may_still_come(
    exporter: Exporter, server: Server, spool: Spool, clock: Clock
) -> None:
    server.watermark = 0
    put(spool, 1)
    exporter.export()
    clock.now += ExportIntervals().poll_s

    exporter.export()

    assert server.requests[-2:] == ["send [1]", "send []"]
    assert exporter.resent == 0


def test_frames_above_a_watermark_that_stands_still_are_sent_again(
    exporter: Exporter, server: Server, spool: Spool, clock: Clock
) -> None:
    server.watermark = 1
    put(spool, 1, 2, 3)
    exporter.export()
    clock.now += ExportIntervals().resend_s + 0.1

    exporter.export()

    assert server.requests[-1] == "send [2, 3]"
    assert exporter.resent == 2


def test_after_a_failure_everything_above_the_watermark_is_sent_again(
    exporter: Exporter, server: Server, spool: Spool, clock: Clock
) -> None:
    server.watermark = 0
    put(spool, 1)
    exporter.export()
    put(spool, 2)
    server.failures = [Unreachable("cut")]
    clock.now += 1
    wait_s = exporter.export()
    clock.now += wait_s

    exporter.export()

    assert server.requests[-1] == "send [1, 2]"


def test_waits_grow_with_every_failure_and_stay_bounded(
    exporter: Exporter, server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.failures = [Unreachable("away") for _ in range(20)]
    waits = []
    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for _ in range(20):
            waits.append(exporter.export())
            clock.now += waits[-1]

    assert waits[0] <= 2 * ExportIntervals().backoff_s
    assert waits[0] < waits[5] < waits[19] <= ExportIntervals().max_backoff_s
    assert len(caplog.records) == 1


def test_nothing_is_sent_before_the_wait_is_over(
    exporter: Exporter, server: Server, clock: Clock
) -> None:
    server.failures = [Unreachable("busy", retry_after_s=7.0)]

    assert exporter.export() == 7.0
    clock.now += 6
    assert exporter.export() == pytest.approx(1.0)
    assert len(server.requests) == 1


def test_a_silent_run_sends_signs_of_life(exporter: Exporter, server: Server, clock: Clock) -> None:
    wait_s = exporter.export()
    clock.now += wait_s
    exporter.export()

    assert wait_s == ExportIntervals().heartbeat_s
    assert server.requests == ["declare loss", "send []", "send []"]


def test_an_unknown_layout_is_declared_again_before_the_frames(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    exporter.export()
    put(spool, 1)
    server.failures = [Refused(409, field="frames[0].layout", message="unknown", fix="declare")]

    exporter.export()
    exporter.export()

    assert server.requests[-3:] == ["send [1]", "declare loss", "send [1]"]


def test_every_layout_in_the_spool_is_declared(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    messages.put_declaration(spool, RunDeclaration(project="p", name="r", layout=OTHER))

    exporter.export()

    assert sorted(server.requests[:2]) == ["declare accuracy", "declare loss"]


def test_a_poisonous_frame_is_found_and_given_up_and_the_others_arrive(
    exporter: Exporter, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuse_seq = 5
    put(spool, *range(1, 9))

    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for _ in range(20):
            exporter.export()

    arrived = [frame.seq for batch in server.batches for frame in batch.frames]
    assert arrived == [1, 2, 3, 4, 6, 7, 8]
    assert exporter.dropped == 1
    assert seqs(spool) == []
    assert [record.message for record in caplog.records] == [
        "evenkeel's server refused: poisonous (field frames, status 422); do not. "
        "evenkeel gives up that frame"
    ]


def test_a_wrong_key_is_logged_once_and_nothing_is_given_up(
    exporter: Exporter,
    server: Server,
    spool: Spool,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(spool, 1)
    server.failures = [Refused(401, field="key", message="unknown key", fix="set EVENKEEL_KEY")] * 3

    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for _ in range(3):
            clock.now += exporter.export()
    assert seqs(spool) == [1]
    exporter.export()

    assert len(caplog.records) == 1
    assert "unknown key (field key, status 401); set EVENKEEL_KEY" in caplog.records[0].message
    assert server.requests[-1] == "send [1]"


def test_a_batch_that_is_refused_as_a_whole_stays_in_the_spool(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    exporter.export()
    put(spool, 1)
    server.failures = [Refused(400, field="wire_version", message="too new", fix="upgrade")]

    wait_s = exporter.export()

    assert seqs(spool) == [1]
    assert wait_s == ExportIntervals().refused_s


def test_a_description_the_server_cannot_use_does_not_hold_up_frames(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    exporter.export()
    messages.put_revision(spool, SpecRevision(step=3, spec={}))
    put(spool, 1)
    server.failures = [Refused(422, field="spec.stacks", message="bad", fix="mend")]

    exporter.export()

    assert server.requests[-2:] == ["describe 3", "send [1]"]


def test_oldest_tells_the_server_what_was_given_up(
    exporter: Exporter, server: Server, spool: Spool
) -> None:
    put(spool, 1, 2, 3)
    spool.drop_to(2)

    exporter.export()
    exporter.export()

    assert server.batches[0].oldest == 3
    assert seqs(spool) == []


def test_a_command_is_handled_once(spool: Spool, server: Server, clock: Clock) -> None:
    handled: list[str] = []
    exporter = Exporter(
        spool,
        server,
        run_id="r",
        rank=0,
        clock=clock,
        on_command=lambda command: handled.append(command.kind),
    )
    server.commands = [Command(id="a", kind="describe")]

    exporter.export()
    clock.now += 10
    exporter.export()

    assert handled == ["describe"]
