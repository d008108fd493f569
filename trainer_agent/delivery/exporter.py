"""Exports a spool to the server: what to send next, what to do with the answer, when to retry."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable

from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.claim import Claim, is_held
from trainer_agent.delivery.intervals import ExportIntervals
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Refused, Transport, Unreachable
from trainer_agent.options import Options
from wire import Command, Frame, FrameBatch, FramesReceipt, Health

logger = logging.getLogger("evenkeel")
MAX_FRAMES = 512
MAX_BYTES = 1 << 20
# Statuses that refuse the content of a request, and not the client or the run.
_BAD_CONTENT = (400, 413, 422)
# Of the operating system: the job's random state must not be touched, and jobs that seed alike
# must not retry in step.
_jitter = random.SystemRandom()


class Exporter:
    """Exports the frames and messages of one (run, rank). No thread, no sleep: the caller waits.

    Attributes:
        watermark: the ack watermark: every frame up to this number is durable at the server.
        dropped: frames given up because the spool was full or the server refused them.
        resent: frames sent more than once.
        page: path of the run's page, "" until the server has told it.
        displaced: whether another process sends as this rank, and the server takes nothing here.
    """

    def __init__(
        self,
        spool: Spool,
        transport: Transport,
        *,
        run_id: str,
        rank: int,
        server: str = "",
        health: Callable[[], Health] = Health,
        on_command: Callable[[Command], None] = lambda _: None,
        claim: Claim | None = None,
        intervals: ExportIntervals | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool, self._transport = spool, transport
        self._run_id, self._rank, self._server = run_id, rank, server
        self._health, self._on_command = health, on_command
        self._claim = claim or Claim(rank)
        self._intervals, self._clock = intervals or ExportIntervals(), clock
        self.watermark = 0
        self.dropped = spool.dropped
        self.resent = 0
        self.page = ""
        self.displaced = False
        self._declared: set[str] = set()
        # Layouts of frames that hold several steps, where the server takes none.
        self._unsupported: set[str] = set()
        # The newest frame sent since the last failure, and the newest ever.
        self._sent = self._ever_sent = 0
        self._packs_steps = False
        self._max_frames = MAX_FRAMES
        self._failures = self._redeclarations = 0
        self._closing = False
        self._retry_at = self._sent_at = float("-inf")
        self._progress_at = clock()
        self._logged_absence = False
        self._logged_refusals: set[tuple[int, str]] = set()
        self._handled_commands: set[str] = set()

    @property
    def delivered(self) -> bool:
        """Whether everything in the spool is durable at the server."""
        spool = self._spool
        return not (spool.oldest or messages.revisions(spool) or messages.end(spool))

    @property
    def failing(self) -> bool:
        """Whether the last request failed."""
        return self._failures > 0

    def export(self) -> float:
        """Send what is due; returns the seconds until there may be something to send again."""
        wait_s = self._retry_at - self._clock()
        if wait_s > 0:
            return wait_s
        try:
            wait_s = self._export()
        except Unreachable as failure:
            return self._back_off(failure)
        except Refused as refusal:
            return self._handle_refusal(refusal)
        self._failures = 0
        return wait_s

    def start_closing(self) -> None:
        """Retry at once and poll often: the job is about to end."""
        self._retry_at, self._closing = float("-inf"), True

    def _export(self) -> float:
        self._declare_layouts()
        self._send_descriptions()
        self._rewind_without_progress()
        waiting = self._spool.read(
            after=self._sent, max_frames=self._max_frames, max_bytes=MAX_BYTES
        )
        frames = self._supported(waiting)
        if waiting and not frames:
            return 0.0
        if frames or self._clock() - self._sent_at >= self._poll_s():
            self._send(frames)
        if not frames:
            self._send_end()
        more = self._sent < self._spool.last_seq
        return self._intervals.flush_s if frames and more else self._poll_s()

    def _poll_s(self) -> float:
        if self._sent <= self.watermark:
            return self._intervals.heartbeat_s
        return self._intervals.closing_poll_s if self._closing else self._intervals.poll_s

    def _declare_layouts(self) -> None:
        skip = self._declared | self._unsupported
        declarations = messages.declarations(self._spool, skip=skip)
        # Those of sampled steps first: the answer says whether the others are taken.
        for declaration in sorted(declarations, key=lambda sent: sent.layout.packs_steps):
            layout = declaration.layout
            if self._packs_steps or not (layout.packs_steps and self._declared):
                receipt = self._transport.declare(self._run_id, self._claim.sign(declaration))
                self._claim.grant(receipt.epoch)
                self.displaced = False
                self.page, self._packs_steps = receipt.url, receipt.packs_steps
                self._advance(receipt.durable.get(str(self._rank), 0))
                self._declared.add(layout.hash)
            if layout.packs_steps and not self._packs_steps:
                self._unsupported.add(layout.hash)

    def _supported(self, frames: list[Frame]) -> list[Frame]:
        """The frames that the server takes; an older one does without steps between samples."""
        for frame in frames:
            if frame.layout in self._unsupported:
                self._spool.drop(frame.seq)
        return [frame for frame in frames if frame.layout not in self._unsupported]

    def _send_descriptions(self) -> None:
        for name, revision in messages.revisions(self._spool).items():
            try:
                self._transport.describe(self._run_id, revision)
            except Refused as refusal:
                if refusal.status not in _BAD_CONTENT:
                    raise
                self._log_once(refusal, "keeps no prediction from this description")
            self._spool.drop_message(name)

    def _rewind_without_progress(self) -> None:
        """Send again what the server took and did not make durable in time."""
        now = self._clock()
        if self._sent <= self.watermark:
            self._progress_at = now
        elif now - self._progress_at > self._intervals.resend_s:
            self._sent, self._progress_at = self.watermark, now

    def _send(self, frames: list[Frame]) -> None:
        oldest = self._spool.oldest or max(self._spool.last_seq, self.watermark) + 1
        batch = FrameBatch(
            rank=self._rank,
            oldest=oldest,
            frames=frames,
            health=self._health(),
            epoch=self._claim.epoch,
        )
        try:
            receipt = self._transport.send(self._run_id, batch)
        except Refused as refusal:
            self._drop_refused(refusal, frames)
            return
        self._sent_at = self._clock()
        self._redeclarations = 0
        if frames:
            self.resent += sum(frame.seq <= self._ever_sent for frame in frames)
            self._sent = frames[-1].seq
            self._ever_sent = max(self._ever_sent, self._sent)
            self._max_frames = MAX_FRAMES
        self._take_receipt(receipt)

    def _take_receipt(self, receipt: FramesReceipt) -> None:
        self._advance(receipt.durable)
        for command in receipt.commands:
            # The server repeats a command until a frame shows that it was heeded.
            if command.id not in self._handled_commands:
                self._handled_commands.add(command.id)
                self._on_command(command)

    def _advance(self, watermark: int) -> None:
        if watermark > self.watermark:
            self.watermark, self._progress_at = watermark, self._clock()
            self._spool.drop_to(watermark)
        self._sent = max(self._sent, self.watermark)

    def _drop_refused(self, refusal: Refused, frames: list[Frame]) -> None:
        """Give up the frame that is refused; where it is not named, bisect for it."""
        if refusal.status not in _BAD_CONTENT or not frames or not _concerns_frames(refusal):
            raise refusal
        index = _refused_index(refusal)
        if index is None and len(frames) > 1:
            self._max_frames = max(1, len(frames) // 2)
            return
        self._spool.drop(frames[min(index or 0, len(frames) - 1)].seq)
        self.dropped += 1
        self._log_once(refusal, "gives up that frame")

    def _send_end(self) -> None:
        end = messages.end(self._spool)
        if end is not None:
            self._transport.end(self._run_id, self._claim.sign_end(end))
            messages.drop_end(self._spool)

    def _back_off(self, failure: Unreachable) -> float:
        self._log_absence(failure)
        self._failures += 1
        self._sent = self.watermark
        intervals = self._intervals
        longest_s = min(intervals.backoff_s * 2 ** min(self._failures, 16), intervals.max_backoff_s)
        wait_s = failure.retry_after_s or longest_s * _jitter.uniform(0.5, 1.0)
        self._retry_at = self._clock() + wait_s
        return wait_s

    def _log_absence(self, failure: Unreachable) -> None:
        """Say once a run, and for the run's own spool only, where frames wait and what to do."""
        logger.debug("evenkeel: %s: %s", self._server, failure)
        if self._server and not self._logged_absence:
            self._logged_absence = True
            logger.warning(
                "evenkeel: no server answers at %s; frames wait in %s; "
                "start one with `evenkeel serve` (%s)",
                self._server,
                self._spool.path.parent,
                failure,
            )

    def _handle_refusal(self, refusal: Refused) -> float:
        self._sent = self.watermark
        if is_held(refusal):
            return self._wait_for_rank(refusal)
        # A server that lost its database knows neither run nor layout: tell it again.
        if refusal.status in (404, 409) and self._declared and self._redeclarations < 2:
            self._redeclarations += 1
            self._declared.clear()
            self._unsupported.clear()
            return 0.0
        self._failures += 1
        wait_s = self._intervals.refused_s
        self._log_once(refusal, "keeps its frames and tries again later")
        self._retry_at = self._clock() + wait_s
        return wait_s

    def _wait_for_rank(self, refusal: Refused) -> float:
        """Claim the rank again later: its holder may end, or be dead already."""
        self.displaced = True
        self._failures += 1
        self._declared.clear()
        self._log_once(refusal, "keeps its frames and sends them once the rank is free")
        self._retry_at = self._clock() + self._intervals.claim_s
        return self._intervals.claim_s

    def _log_once(self, refusal: Refused, consequence: str) -> None:
        kind = (refusal.status, re.sub(r"\d+", "", refusal.field))
        if kind not in self._logged_refusals:
            self._logged_refusals.add(kind)
            logger.warning("evenkeel's server refused: %s. evenkeel %s", refusal, consequence)


def _concerns_frames(refusal: Refused) -> bool:
    return refusal.status == 413 or refusal.field.startswith("frames")


def _refused_index(refusal: Refused) -> int | None:
    match = re.match(r"frames\[(\d+)\]", refusal.field)
    return int(match.group(1)) if match else None


class OrphanExporter:
    """Adopts and exports, one after the other, the spools that dead jobs left in the folder."""

    def __init__(self, options: Options, transport: Transport, intervals: ExportIntervals) -> None:
        self._orphans = spool_folder.adopt_orphans(
            options.spool_dir, server=options.server, limit_bytes=options.spool_limit_bytes
        )
        self._transport, self._intervals = transport, intervals
        self._current: tuple[Spool, Exporter] | None = None

    def export(self) -> float:
        """Send what is due of one spool; returns the seconds until there may be more."""
        if self._current is None:
            self._current = self._adopt_next()
            return float("inf") if self._current is None else 0.0
        spool, exporter = self._current
        wait_s = exporter.export()
        if exporter.delivered:
            spool_folder.remove(spool)
            self._current = None
            return 0.0
        if exporter.displaced:  # the run goes on elsewhere: other spools need not wait for its end
            spool_folder.release(spool)
            self._current = None
            return 0.0
        return wait_s

    def _adopt_next(self) -> tuple[Spool, Exporter] | None:
        spool = next(self._orphans, None)
        if spool is None:
            return None
        origin = messages.origin(spool)
        assert origin is not None  # adopt_orphans yields no other
        _, run_id, rank = origin
        claim = Claim(rank)
        claim.keep_in(spool)
        exporter = Exporter(
            spool,
            self._transport,
            run_id=run_id,
            rank=rank,
            claim=claim,
            intervals=self._intervals,
        )
        return spool, exporter
