"""What the courier says and when, with a clock that the test moves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer_agent.delivery import messages
from trainer_agent.delivery.exporter import Courier, Pace
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
    """Answers as told; `mark` is what it says is durable, None for everything it got."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.batches: list[FrameBatch] = []
        self.failures: list[Exception] = []
        self.refuse_seq: int | None = None
        self.mark: int | None = None
        self.commands: list[Command] = []

    def _hear(self, what: str) -> None:
        self.said.append(what)
        if self.failures:
            raise self.failures.pop(0)

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        self._hear(f"declare {declaration.layout.series[0].site}")
        return RunReceipt(run_id, {"0": self.mark or 0}, f"/runs/{run_id}")

    def describe(self, run_id: str, revision: SpecRevision) -> None:
        self._hear(f"describe {revision.step}")

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        self._hear(f"send {[frame.seq for frame in batch.frames]}")
        if self.refuse_seq in [frame.seq for frame in batch.frames]:
            raise Refused(422, field="frames", message="poisonous", fix="do not")
        self.batches.append(batch)
        newest = max((frame.seq for one in self.batches for frame in one.frames), default=0)
        mark = newest if self.mark is None else self.mark
        return FramesReceipt(mark, len(batch.frames), 0, self.commands)

    def end(self, run_id: str, end: RunEnd) -> None:
        self._hear(f"end {end.status}")

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
    messages.keep_declaration(spool, RunDeclaration(project="p", name="r", layout=LAYOUT))
    yield spool
    spool.close()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def courier(spool: Spool, server: Server, clock: Clock) -> Courier:
    return Courier(spool, server, run_id="r", rank=0, pace=Pace(), clock=clock)


def put(spool: Spool, *seqs: int) -> None:
    for seq in seqs:
        values = np.zeros(1, dtype=np.float32)
        spool.append(Frame.pack(seq=seq, step=seq, time=0.0, layout=LAYOUT.hash, values=values))


def held(spool: Spool) -> list[int]:
    return [one.seq for one in spool.read(after=0, max_frames=999, max_bytes=1 << 30)]


def test_a_run_is_declared_then_described_then_sent(
    courier: Courier, server: Server, spool: Spool
) -> None:
    messages.keep_revision(spool, SpecRevision(step=0, spec={}))
    messages.keep_end(spool, RunEnd(status="finished"))
    put(spool, 1, 2)

    courier.round()
    courier.round()

    assert server.said == ["declare loss", "describe 0", "send [1, 2]", "end finished"]
    assert courier.delivered
    assert courier.page == "/runs/r"


def test_only_what_is_durable_leaves_the_spool(
    courier: Courier, server: Server, spool: Spool
) -> None:
    server.mark = 1
    put(spool, 1, 2, 3)

    courier.round()

    assert held(spool) == [2, 3]
    assert not courier.delivered


def test_frames_are_not_sent_again_while_the_mark_may_still_come(
    courier: Courier, server: Server, spool: Spool, clock: Clock
) -> None:
    server.mark = 0
    put(spool, 1)
    courier.round()
    clock.now += Pace().ask_s

    courier.round()

    assert server.said[-2:] == ["send [1]", "send []"]
    assert courier.resent == 0


def test_frames_above_a_mark_that_stands_still_are_sent_again(
    courier: Courier, server: Server, spool: Spool, clock: Clock
) -> None:
    server.mark = 1
    put(spool, 1, 2, 3)
    courier.round()
    clock.now += Pace().resend_s + 0.1

    courier.round()

    assert server.said[-1] == "send [2, 3]"
    assert courier.resent == 2


def test_after_a_failure_everything_above_the_mark_is_sent_again(
    courier: Courier, server: Server, spool: Spool, clock: Clock
) -> None:
    server.mark = 0
    put(spool, 1)
    courier.round()
    put(spool, 2)
    server.error_handlers = [Unreachable("cut")]
    clock.now += 1
    rest_s = courier.round()
    clock.now += rest_s

    courier.round()

    assert server.said[-1] == "send [1, 2]"


def test_waits_grow_with_every_failure_and_stay_bounded(
    courier: Courier, server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.error_handlers = [Unreachable("away") for _ in range(20)]
    waits = []
    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for _ in range(20):
            waits.append(courier.round())
            clock.now += waits[-1]

    assert waits[0] <= 2 * Pace().backoff_s
    assert waits[0] < waits[5] < waits[19] <= Pace().longest_backoff_s
    assert len(caplog.records) == 1


def test_nothing_is_said_before_the_wait_is_over(
    courier: Courier, server: Server, clock: Clock
) -> None:
    server.error_handlers = [Unreachable("busy", retry_after_s=7.0)]

    assert courier.round() == 7.0
    clock.now += 6
    assert courier.round() == pytest.approx(1.0)
    assert len(server.said) == 1


def test_a_silent_run_sends_signs_of_life(courier: Courier, server: Server, clock: Clock) -> None:
    rest_s = courier.round()
    clock.now += rest_s
    courier.round()

    assert rest_s == Pace().heartbeat_s
    assert server.said == ["declare loss", "send []", "send []"]


def test_an_unknown_layout_is_declared_again_before_the_frames(
    courier: Courier, server: Server, spool: Spool
) -> None:
    courier.round()
    put(spool, 1)
    server.error_handlers = [
        Refused(409, field="frames[0].layout", message="unknown", fix="declare")
    ]

    courier.round()
    courier.round()

    assert server.said[-3:] == ["send [1]", "declare loss", "send [1]"]


def test_every_layout_kept_is_declared(courier: Courier, server: Server, spool: Spool) -> None:
    messages.keep_declaration(spool, RunDeclaration(project="p", name="r", layout=OTHER))

    courier.round()

    assert sorted(server.said[:2]) == ["declare accuracy", "declare loss"]


def test_a_poisonous_frame_is_found_and_given_up_and_the_others_arrive(
    courier: Courier, server: Server, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuse_seq = 5
    put(spool, *range(1, 9))

    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for _ in range(20):
            courier.round()

    arrived = [frame.seq for batch in server.batches for frame in batch.frames]
    assert arrived == [1, 2, 3, 4, 6, 7, 8]
    assert courier.dropped == 1
    assert held(spool) == []
    assert [record.message for record in caplog.records] == [
        "evenkeel's server refused: poisonous (field frames, status 422); do not. "
        "evenkeel gives up that frame"
    ]


def test_a_wrong_key_is_said_once_and_nothing_is_given_up(
    courier: Courier,
    server: Server,
    spool: Spool,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(spool, 1)
    server.error_handlers = [
        Refused(401, field="key", message="unknown key", fix="set EVENKEEL_KEY")
    ] * 3

    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for _ in range(3):
            clock.now += courier.round()
    assert held(spool) == [1]
    courier.round()

    assert len(caplog.records) == 1
    assert "unknown key (field key, status 401); set EVENKEEL_KEY" in caplog.records[0].message
    assert server.said[-1] == "send [1]"


def test_a_batch_that_is_wrong_as_a_whole_is_kept(
    courier: Courier, server: Server, spool: Spool
) -> None:
    courier.round()
    put(spool, 1)
    server.error_handlers = [Refused(400, field="wire_version", message="too new", fix="upgrade")]

    rest_s = courier.round()

    assert held(spool) == [1]
    assert rest_s == Pace().refused_s


def test_a_description_the_server_cannot_use_does_not_hold_up_frames(
    courier: Courier, server: Server, spool: Spool
) -> None:
    courier.round()
    messages.keep_revision(spool, SpecRevision(step=3, spec={}))
    put(spool, 1)
    server.error_handlers = [Refused(422, field="spec.stacks", message="bad", fix="mend")]

    courier.round()

    assert server.said[-2:] == ["describe 3", "send [1]"]


def test_oldest_tells_the_server_what_was_given_up(
    courier: Courier, server: Server, spool: Spool
) -> None:
    put(spool, 1, 2, 3)
    spool.drop_to(2)

    courier.round()
    courier.round()

    assert server.batches[0].oldest == 3
    assert held(spool) == []


def test_a_command_is_obeyed_once(spool: Spool, server: Server, clock: Clock) -> None:
    obeyed: list[str] = []
    courier = Courier(
        spool,
        server,
        run_id="r",
        rank=0,
        clock=clock,
        on_command=lambda command: obeyed.append(command.kind),
    )
    server.commands = [Command(id="a", kind="describe")]

    courier.round()
    clock.now += 10
    courier.round()

    assert obeyed == ["describe"]
