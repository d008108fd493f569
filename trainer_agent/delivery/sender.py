"""The thread that takes finished samples from training and brings them to the server."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from trainer_agent.capture.guard import Guard
from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.claim import Claim
from trainer_agent.delivery.exporter import Exporter, OrphanExporter
from trainer_agent.delivery.frame_packer import FramePacker, resumed_seq
from trainer_agent.delivery.intervals import ExportIntervals
from trainer_agent.delivery.messages import Description, Message, Sample
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Transport
from trainer_agent.options import Options
from wire import Command, Frame, Health, RunEnd, SpecRevision

QUEUE_LIMIT = 1024
CLOSING_LIMIT_S = 10.0  # for what is left where nobody waits for it
BATCH_LIMIT = 256  # messages packed together: their values are in memory twice meanwhile

# Told what the thread takes of the processor, in seconds, and whether it recurs with every frame.
Charge = Callable[[float, bool], None]


def _ignore(spent_s: float, recurs: bool) -> None:
    """Nobody keeps account."""


class ForkCounter:
    """Counts, in each process, the forks between it and the one that loaded this module.

    The sender compares the count with every sample; to ask for the process id would be a system
    call each time.

    Attributes:
        count: 0 in that process, one more in its child.
    """

    def __init__(self) -> None:
        self.count = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._increment)

    def _increment(self) -> None:
        self.count += 1


forks = ForkCounter()


class Sender:
    """Bounded queue, daemon thread, spool and exporter of one run and rank.

    `offer` belongs to the training thread and never waits. Everything else happens in the
    sender's thread, which the first offer starts, and starts again after a fork. Every
    `ExportIntervals.flush_s` the thread packs, writes and sends together what has come in: one
    frame at a time would take several times as much, and to wake the thread is work for the
    training thread.
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
        charge: Charge = _ignore,
        intervals: ExportIntervals | None = None,
    ) -> None:
        self._options, self._run_id = options, run_id
        self._make_transport = transport
        self._health, self._on_command = health, on_command
        self._guard, self._charge = guard, charge
        self._intervals = intervals or ExportIntervals()
        # A child of this process goes on under the same claim: its parent trains no longer.
        self._claim = Claim(options.rank, take_over=options.take_over)
        self._dropped_before_fork = 0
        self._parents_exporters: list[Exporter | None] = []
        self._reset(last_seq=0 if options.run_id is None else resumed_seq(0))

    def _reset(self, last_seq: int) -> None:
        """Begin anew in this process, with nothing offered yet."""
        self._forks = forks.count
        self._packer = FramePacker(last_seq)
        self._queue: deque[Message] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._exporter: Exporter | None = None
        self._overflow = 0
        self._charged_s = 0.0
        # The training thread counts offers, the sender's what it wrote: no lock on the way in.
        self._offered = self._written = 0
        self._progress = threading.Condition()
        self._deadline: float | None = None
        self._arrived = False

    @property
    def dropped(self) -> int:
        """Frames given up so far: queue full, spool full, or refused for good."""
        exporter = self._exporter
        return self._dropped_before_fork + self._overflow + (exporter.dropped if exporter else 0)

    @property
    def resent(self) -> int:
        """Frames sent more than once."""
        return self._exporter.resent if self._exporter else 0

    @property
    def page(self) -> str:
        """Path of the run's page, "" until the server has told it."""
        return self._exporter.page if self._exporter else ""

    @property
    def last_seq(self) -> int:
        """Number of the newest frame, or the one before the first."""
        return self._packer.last_seq

    def resume(self, run_id: str, last_seq: int) -> bool:
        """Go on with a run that reached `last_seq` or more; False once frames are on their way."""
        if self._thread is not None:
            return False
        self._run_id, self._packer = run_id, FramePacker(resumed_seq(last_seq))
        return True

    def offer(self, message: Message) -> None:
        """Hand over a message; where the thread is hopelessly behind, the oldest is dropped."""
        if self._forks != forks.count:
            self._restart_after_fork()
        if len(self._queue) >= QUEUE_LIMIT:
            self._drop_oldest()
        self._offered += 1
        self._queue.append(message)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evenkeel-sender", daemon=True)
            self._thread.start()

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was offered is on disk; returns whether it is."""
        if self._thread is None or self._forks != forks.count:
            return True
        self._wake.set()
        with self._progress:
            return self._progress.wait_for(lambda: self._written >= self._offered, timeout_s)

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

    def begin_closing(self, end: RunEnd) -> None:
        """Send what is left and the run's end, with nobody waiting for it.

        Takes no lock: a garbage collection may call it, in whatever the thread that it is in does.
        """
        if self._thread is not None and self._forks == forks.count:
            self._queue.append(end)
            self._offered += 1
            self._deadline = time.monotonic() + CLOSING_LIMIT_S

    def _drop_oldest(self) -> None:
        with suppress(IndexError):  # the thread was quicker
            self._overflow += isinstance(self._queue.popleft(), Sample)
            self._offered -= 1

    def _restart_after_fork(self) -> None:
        # SQLite forbids a child to use, and even to close, its parent's connection. So the
        # exporter that has it must not be collected.
        self._parents_exporters.append(self._exporter)
        self._dropped_before_fork = self.dropped
        spool_folder.forget_parent_locks()
        self._reset(self.last_seq)

    def _run(self) -> None:
        with self._guard.at("sender"):
            self._deliver()

    def _deliver(self) -> None:
        options = self._options
        spool = spool_folder.open_spool(
            options.spool_dir,
            server=options.server,
            run_id=self._run_id,
            rank=options.rank,
            limit_bytes=options.spool_limit_bytes,
        )
        self._claim.keep_in(spool)
        transport = self._make_transport()
        exporter = self._exporter = Exporter(
            spool,
            transport,
            run_id=self._run_id,
            rank=options.rank,
            server=options.server,
            health=self._complete_health,
            on_command=self._on_command,
            claim=self._claim,
            intervals=self._intervals,
        )
        try:
            self._loop(spool, exporter, OrphanExporter(options, transport, self._intervals))
        finally:
            transport.close()
            self._arrived = exporter.delivered
            spool_folder.remove(spool) if self._arrived else spool_folder.release(spool)

    def _complete_health(self) -> Health:
        return msgspec.structs.replace(self._health(), dropped=self.dropped, resent=self.resent)

    def _loop(self, spool: Spool, exporter: Exporter, orphans: OrphanExporter) -> None:
        due, recurs = 0.0, True
        while True:
            closing = self._deadline is not None  # then the end is in the queue by now
            batch = self._take_batch()
            self._write(batch, spool, exporter)
            if closing:
                exporter.start_closing()
            if batch or closing or time.monotonic() >= due:
                wait_s = exporter.export()
                if not exporter.failing and not closing:
                    wait_s = min(wait_s, orphans.export())
                due = time.monotonic() + (self._intervals.closing_poll_s if closing else wait_s)
            if closing and self._is_over(exporter):
                return
            if batch:  # what follows without a batch, such as questions, is of the last one
                recurs = not all(isinstance(sent, Sample) and not sent.sampled for sent in batch)
            self._account(recurs=recurs)
            self._wait(due)

    def _is_over(self, exporter: Exporter) -> bool:
        late = time.monotonic() >= (self._deadline or 0.0)
        return late or (exporter.delivered and not self._queue)

    def _wait(self, due: float) -> None:
        """Wait for messages, for `due`, or until a caller of `settle` or `close` wakes the thread.

        The training thread wakes nobody when it offers: the queue is looked at every `flush_s`.
        """
        flush_s = self._intervals.flush_s
        while len(self._queue) < BATCH_LIMIT:
            wait_s = flush_s if self._queue else min(flush_s, due - time.monotonic())
            if self._wake.wait(max(wait_s, 0.0)) or self._queue or time.monotonic() >= due:
                break
        # Before the queue is emptied: who wakes the thread after this finds there what it offered.
        self._wake.clear()

    def _account(self, *, recurs: bool = True) -> None:
        now = time.thread_time()
        # What the thread's start takes does not recur.
        self._charge(now - self._charged_s, recurs and self._charged_s > 0.0)
        self._charged_s = now

    def _take_batch(self) -> list[Message]:
        """What has come in, at most so much that it is no burden on memory."""
        batch: list[Message] = []
        with suppress(IndexError):  # the training thread takes from a full queue, too
            while len(batch) < BATCH_LIMIT:
                batch.append(self._queue.popleft())
        return batch

    def _write(self, batch: list[Message], spool: Spool, exporter: Exporter) -> None:
        """Pack a batch and write it to the spool."""
        if not batch:
            return
        frames: list[Frame] = []
        for message in batch:
            with self._guard.at("packing"):  # each by itself: a failure costs one message
                self._pack(message, spool, frames)
        with self._guard.at("spool"):
            if frames:
                exporter.dropped += spool.append(*frames)
        with self._progress:
            self._written += len(batch)
            self._progress.notify_all()

    def _pack(self, message: Message, spool: Spool, frames: list[Frame]) -> None:
        match message:
            case Sample():
                if self._claim.succeeds_others:
                    self._claim.succeeds_others = False
                    self._packer.last_seq = resumed_seq(self._packer.last_seq)
                frames.append(self._packer.pack(message, spool))
            case Description():
                self._account()  # what came before the description recurs, and it does not
                spec = message.spec()
                # Beside the spec: servers from before it would refuse it as a part of that.
                flows = spec.pop("flows", None)
                revision = SpecRevision(step=message.step, spec=spec, flows=flows)
                messages.put_revision(spool, revision)
                self._account(recurs=False)
            case RunEnd():
                messages.put_end(spool, message)
