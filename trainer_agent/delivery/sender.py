"""The thread that takes finished samples from training and sees them to the server."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from trainer_agent.capture.guard import Guard
from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.exporter import Courier, Inheritance, Pace
from trainer_agent.delivery.messages import Description, Message, Sample
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Transport
from trainer_agent.options import Options
from wire import Command, Frame, Health, RunEnd, SpecRevision

QUEUE_LIMIT = 1024
GATHERED = 256  # parcels that are unpacked together: their values are in memory twice meanwhile
FRAMES_A_MILLISECOND = 1024

Charge = Callable[[float, bool], None]


def _uncharged(spent_s: float, recurs: bool) -> None:
    """Nobody keeps account."""


class Forks:
    """Counts, in each process, the forks between it and the one that loaded this module.

    Attributes:
        count: 0 in that one, one more in its child.
    """

    def __init__(self) -> None:
        self.count = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.count += 1


forks = Forks()


class Sender:
    """Bounded queue, daemon thread, spool and courier of one run and rank.

    `offer` belongs to the training thread and never waits; everything else on the way happens
    in the thread, which is started by the first offer and again after a fork. It looks every
    `Pace.flush_s` for what has come in, and packs, writes and sends that together: one frame at a
    time would take several times as much, and to wake the thread is work for the training thread.
    `charge` is told what all this takes of the processor, in seconds, and whether it recurs with
    every frame.
    """

    def __init__(
        self,
        options: Options,
        run_id: str,
        *,
        transport: Callable[[], Transport],
        health: Callable[[], Health],
        on_command: Callable[[Command], None],
        guard: Guard,
        charge: Charge = _uncharged,
        pace: Pace | None = None,
    ) -> None:
        self._options, self._run_id = options, run_id
        self._charge = charge
        self._make_transport = transport
        self._health, self._on_command = health, on_command
        self._guard, self._pace = guard, pace or Pace()
        self._last_seq = 0 if options.run_id is None else _past_every_number(0)
        self._dropped_before = 0
        self._inherited: list[object] = []
        self._renew()

    def _renew(self) -> None:
        self._forks = forks.count
        self._queue: deque[Message] = deque()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._courier: Courier | None = None
        self._overflow = 0
        self._accounted_s = 0.0
        self._offered = self._kept = 0  # one is the training thread's, one the sender's
        self._progress = threading.Condition()
        self._layouts_kept: set[str] = set()
        self._deadline: float | None = None
        self._arrived = False

    @property
    def dropped(self) -> int:
        """Frames given up so far: queue full, spool full, or refused for good."""
        courier = self._courier
        return self._dropped_before + self._overflow + (courier.dropped if courier else 0)

    @property
    def resent(self) -> int:
        """Frames sent more than once."""
        return self._courier.resent if self._courier else 0

    @property
    def page(self) -> str:
        """Path of the run's page, "" until the server has said it."""
        return self._courier.page if self._courier else ""

    @property
    def last_seq(self) -> int:
        """Number of the newest frame, or the one before the first."""
        return self._last_seq

    def resume(self, run_id: str, last_seq: int) -> bool:
        """Go on with a run that reached `last_seq` or more; False once frames are on their way."""
        if self._thread is not None:
            return False
        self._run_id, self._last_seq = run_id, _past_every_number(last_seq)
        return True

    def offer(self, parcel: Message) -> None:
        """Hand over a parcel; when the thread is hopelessly behind, the oldest goes."""
        if self._forks != forks.count:
            self._start_again_after_fork()
        if len(self._queue) >= QUEUE_LIMIT:
            self._give_up_oldest()
        self._offered += 1
        self._queue.append(parcel)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evenkeel-sender", daemon=True)
            self._thread.start()

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was offered is on disk; returns whether it is."""
        if self._thread is None or self._forks != forks.count:
            return True
        self._hurry.set()
        with self._progress:
            return self._progress.wait_for(lambda: self._kept >= self._offered, timeout_s)

    def close(self, end: RunEnd, *, timeout_s: float) -> bool:
        """Send what is left and the run's end; returns whether all of it arrived in time.

        What did not stays in the spool, for the next agent on this machine.
        """
        if self._forks != forks.count:
            return True  # the run is the parent's
        if self._thread is None:
            return True  # nothing was ever sampled: there is no run
        self.offer(end)
        self._deadline = time.monotonic() + timeout_s
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._arrived

    def _give_up_oldest(self) -> None:
        with suppress(IndexError):  # the thread was quicker
            self._overflow += isinstance(self._queue.popleft(), Sample)
            self._offered -= 1

    def _start_again_after_fork(self) -> None:
        # SQLite forbids using, and even closing, a connection across a fork: hold on to it.
        self._inherited.append(self._courier)
        self._dropped_before = self.dropped
        spool_folder.forget_inherited()
        self._renew()

    def _run(self) -> None:
        with self._guard.at("sender"):
            self._deliver()

    def _deliver(self) -> None:
        options = self._options
        spool = spool_folder.open_own(
            options.spool_dir,
            server=options.server,
            run_id=self._run_id,
            rank=options.rank,
            limit_bytes=options.spool_limit_bytes,
        )
        transport = self._make_transport()
        self._courier = Courier(
            spool,
            transport,
            run_id=self._run_id,
            rank=options.rank,
            health=self._health,
            on_command=self._on_command,
            pace=self._pace,
        )
        self._courier.dropped = spool.dropped
        try:
            self._converse(spool, self._courier, Inheritance(options, transport, self._pace))
        finally:
            transport.close()
            self._arrived = self._courier.delivered
            spool_folder.remove(spool) if self._arrived else spool_folder.leave(spool)

    def _converse(self, spool: Spool, courier: Courier, inheritance: Inheritance) -> None:
        due = 0.0
        while True:
            closing = self._deadline is not None  # then the end is in the queue by now
            parcels = self._gather()
            self._keep_all(parcels, spool, courier)
            if closing:
                courier.hurry()
            if parcels or closing or time.monotonic() >= due:
                rest_s = courier.round()
                if not courier.failing and not closing:
                    rest_s = min(rest_s, inheritance.round())
                due = time.monotonic() + (self._pace.closing_s if closing else rest_s)
            if closing and self._is_over(courier):
                return
            self._account()
            self._rest(due)

    def _is_over(self, courier: Courier) -> bool:
        late = time.monotonic() >= (self._deadline or 0.0)
        return late or (courier.delivered and not self._queue)

    def _rest(self, due: float) -> None:
        """Wait for parcels, for `due`, or for somebody in a hurry."""
        look_s = self._pace.flush_s
        while len(self._queue) < GATHERED:
            wait_s = look_s if self._queue else min(look_s, due - time.monotonic())
            if self._hurry.wait(max(wait_s, 0.0)) or self._queue or time.monotonic() >= due:
                break
        # Before the queue is emptied: whoever is in a hurry later finds there what was offered.
        self._hurry.clear()

    def _account(self, *, recurs: bool = True) -> None:
        now = time.thread_time()
        # What the thread's start takes does not recur.
        self._charge(now - self._accounted_s, recurs and self._accounted_s > 0.0)
        self._accounted_s = now

    def _gather(self) -> list[Message]:
        """What has come in, at most so much that it is no burden on memory."""
        found: list[Message] = []
        with suppress(IndexError):  # where it is empty; a full one is emptied by training, too
            while len(found) < GATHERED:
                found.append(self._queue.popleft())
        return found

    def _keep_all(self, parcels: list[Message], spool: Spool, courier: Courier) -> None:
        if not parcels:
            return
        frames: list[Frame] = []
        for parcel in parcels:
            with self._guard.at("packing"):
                self._pack(parcel, spool, frames)
        with self._guard.at("spool"):
            if frames:
                courier.dropped += spool.append(*frames)
        with self._progress:
            self._kept += len(parcels)
            self._progress.notify_all()

    def _pack(self, parcel: Message, spool: Spool, frames: list[Frame]) -> None:
        match parcel:
            case Sample():
                frames.append(self._frame(parcel, spool))
            case Description():
                self._account()
                messages.keep_revision(spool, SpecRevision(step=parcel.step, spec=parcel.spec()))
                self._account(recurs=False)
            case RunEnd():
                messages.keep_end(spool, parcel)

    def _frame(self, sample: Sample, spool: Spool) -> Frame:
        declaration, values = sample.content()
        layout = declaration.layout.hash
        frame = Frame.pack(
            seq=self._last_seq + 1, step=sample.step, time=sample.time, layout=layout, values=values
        )
        self._last_seq += 1
        if layout not in self._layouts_kept:
            self._layouts_kept.add(layout)
            messages.keep_declaration(spool, declaration)
        return frame


def _past_every_number(last_seq: int) -> int:
    """Where a run goes on: past all that it sent, known or not, and within a float's integers.

    What an earlier process numbered last may be on another machine; the time is known here.
    """
    return max(last_seq, int(time.time() * 1000) * FRAMES_A_MILLISECOND)
