"""The thread that takes finished samples from training and sees them to the server."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.courier import Courier, Pace
from trainer_agent.delivery.forks import forks
from trainer_agent.delivery.inheritance import Inheritance
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Transport
from trainer_agent.guard import Guard
from trainer_agent.options import Options
from wire import Command, Frame, Health, RunDeclaration, RunEnd, SpecRevision

QUEUE_LIMIT = 1024
FRAMES_A_MILLISECOND = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled step on its way: `values` waits for the device, in the sender thread."""

    step: int
    time: float
    declaration: RunDeclaration
    values: Callable[[], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Description:
    """The model's description at a step: `spec` packs it, in the sender thread.

    `together` is whether every process of the job has to, each with its part of the weights.
    """

    step: int
    spec: Callable[[], dict[str, Any]]
    together: bool = False


Parcel = Sample | Description | RunEnd


class Sender:
    """Bounded queue, daemon thread, spool and courier of one run and rank.

    `offer` belongs to the training thread and never waits; everything else on the way happens
    in the thread, which is started by the first offer and again after a fork.
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
        pace: Pace | None = None,
    ) -> None:
        self._options, self._run_id = options, run_id
        self._make_transport = transport
        self._health, self._on_command = health, on_command
        self._guard, self._pace = guard, pace or Pace()
        self._last_seq = 0 if options.run_id is None else _past_every_number(0)
        self._dropped_before = 0
        self._inherited: list[object] = []
        self._renew()

    def _renew(self) -> None:
        self._forks = forks.count
        self._queue: deque[Parcel] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._courier: Courier | None = None
        self._overflow = 0
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

    def offer(self, parcel: Parcel) -> None:
        """Hand over a parcel; when the thread is hopelessly behind, the oldest goes."""
        if self._forks != forks.count:
            self._start_again_after_fork()
        if len(self._queue) >= QUEUE_LIMIT:
            self._overflow += isinstance(self._queue.popleft(), Sample)
            self._offered -= 1
        self._queue.append(parcel)
        self._offered += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evenkeel-sender", daemon=True)
            self._thread.start()
        self._wake.set()

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was offered is on disk; returns whether it is."""
        if self._thread is None or self._forks != forks.count:
            return True
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
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._arrived

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
        rest_s = 0.0
        while True:
            if self._wake.wait(rest_s):
                self._wake.clear()
            closing = self._deadline is not None  # then the end is in the queue by now
            with self._guard.at("spool"):
                self._keep_all(spool, courier)
            if closing:
                courier.hurry()
            rest_s = courier.round()
            if closing and (courier.delivered or time.monotonic() >= (self._deadline or 0.0)):
                return
            if not closing and not courier.failing:
                rest_s = min(rest_s, inheritance.round())
            if closing:
                rest_s = min(rest_s, self._pace.flush_s)

    def _keep_all(self, spool: Spool, courier: Courier) -> None:
        while self._queue:
            parcel = self._queue.popleft()
            with self._guard.at("packing"):
                self._keep(parcel, spool, courier)
            with self._progress:
                self._kept += 1
                self._progress.notify_all()

    def _keep(
        self,
        parcel: Parcel,
        spool: Spool,
        courier: Courier,
    ) -> None:
        match parcel:
            case Sample():
                self._keep_sample(parcel, spool, courier)
            case Description():
                messages.keep_revision(spool, SpecRevision(step=parcel.step, spec=parcel.spec()))
            case RunEnd():
                messages.keep_end(spool, parcel)

    def _keep_sample(self, sample: Sample, spool: Spool, courier: Courier) -> None:
        frame = Frame.pack(
            seq=self._last_seq + 1,
            step=sample.step,
            time=sample.time,
            layout=sample.declaration.layout.hash,
            values=sample.values(),
        )
        self._last_seq += 1
        if sample.declaration.layout.hash not in self._layouts_kept:
            self._layouts_kept.add(sample.declaration.layout.hash)
            messages.keep_declaration(spool, sample.declaration)
        courier.dropped += spool.append(frame)


def _past_every_number(last_seq: int) -> int:
    """Where a run goes on: past all that it sent, known or not, and within a float's integers.

    What an earlier process numbered last may be on another machine; the time is known here.
    """
    return max(last_seq, int(time.time() * 1000) * FRAMES_A_MILLISECOND)
