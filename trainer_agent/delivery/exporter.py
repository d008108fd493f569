"""Delivers one spool to the server: what to say next, and what to do with the answer."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Refused, Transport, Unreachable
from trainer_agent.options import Options
from wire import Command, Frame, FrameBatch, FramesReceipt, Health

logger = logging.getLogger("evenkeel")


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals of the conversation, in seconds.

    Attributes:
        flush_s: between looks for new frames, which are written and sent together.
        ask_s: from the last word to a question for the durable mark while frames await it.
        closing_s: the same once the job waits for its end.
        heartbeat_s: between signs of life when there is nothing to say.
        resend_s: after how long without progress of the mark frames are sent again.
        backoff_s, longest_backoff_s: first and longest wait after a failure.
        refused_s: wait after an answer that only a person can mend.
    """

    flush_s: float = 0.25
    ask_s: float = 2.0
    closing_s: float = 0.05
    heartbeat_s: float = 5.0
    resend_s: float = 5.0
    backoff_s: float = 0.25
    longest_backoff_s: float = 30.0
    refused_s: float = 30.0


MAX_FRAMES = 512
MAX_BYTES = 1 << 20
# Statuses that speak of one frame of a batch rather than of the conversation.
_UNDIGESTIBLE = (400, 413, 422)


class Courier:
    """The conversation about one (run, rank). No thread, no sleep: the caller paces it.

    Attributes:
        mark: the durable mark, as last heard.
        dropped: frames given up because the spool was full or the server refused them.
        resent: frames sent more than once.
        page: path of the run's page, once the server has said it.
    """

    def __init__(
        self,
        spool: Spool,
        transport: Transport,
        *,
        run_id: str,
        rank: int,
        health: Callable[[], Health] = Health,
        on_command: Callable[[Command], None] = lambda _: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool, self._transport = spool, transport
        self._run_id, self._rank = run_id, rank
        self._health, self._on_command = health, on_command
        self._pace, self._clock = pace or Pace(), clock
        self.mark = 0
        self.dropped = 0
        self.resent = 0
        self.page = ""
        self._declared: set[str] = set()
        self._sent = 0
        self._ever_sent = 0
        self._max_frames = MAX_FRAMES
        self._failures = 0
        self._hurried = False
        self._retry_at = float("-inf")
        self._spoke_at = float("-inf")
        self._progress_at = clock()
        self._said: set[tuple[int, str]] = set()
        self._obeyed: set[str] = set()
        self._redeclared = 0

    @property
    def delivered(self) -> bool:
        """Whether the server has everything the spool was given, durably."""
        nothing_else = not messages.revisions(self._spool) and not messages.kept_end(self._spool)
        return nothing_else and not self._spool.oldest

    @property
    def failing(self) -> bool:
        """Whether the last word from the server was a failure or there was none."""
        return self._failures > 0

    def round(self) -> float:
        """Say what is due; returns the seconds until there may be something to say again."""
        wait_s = self._retry_at - self._clock()
        if wait_s > 0:
            return wait_s
        try:
            rest_s = self._converse()
        except Unreachable as failure:
            return self._back_off(failure)
        except Refused as refusal:
            return self._be_refused(refusal)
        self._failures = 0
        return rest_s

    def hurry(self) -> None:
        """Forget about waiting: the job is about to end."""
        self._retry_at, self._hurried = float("-inf"), True

    def _converse(self) -> float:
        self._declare_layouts()
        self._describe()
        self._send_again_without_progress()
        frames = self._spool.read(
            after=self._sent, max_frames=self._max_frames, max_bytes=MAX_BYTES
        )
        if frames or self._clock() - self._spoke_at >= self._patience_s():
            self._send(frames)
        if not frames:
            self._end()
        more = self._sent < self._spool.last_seq
        return self._pace.flush_s if frames and more else self._patience_s()

    def _patience_s(self) -> float:
        if self._sent <= self.mark:
            return self._pace.heartbeat_s
        return self._pace.closing_s if self._hurried else self._pace.ask_s

    def _declare_layouts(self) -> None:
        for declaration in messages.declarations(self._spool, known=self._declared):
            receipt = self._transport.declare(self._run_id, declaration)
            self.page = receipt.url
            self._advance(receipt.durable.get(str(self._rank), 0))
            self._declared.add(declaration.layout.hash)

    def _describe(self) -> None:
        for name, revision in messages.revisions(self._spool).items():
            try:
                self._transport.describe(self._run_id, revision)
            except Refused as refusal:
                if refusal.status not in _UNDIGESTIBLE:
                    raise
                self._say_once(refusal, "keeps no prediction from this description")
            self._spool.forget_note(name)

    def _send_again_without_progress(self) -> None:
        now = self._clock()
        if self._sent <= self.mark:
            self._progress_at = now
        elif now - self._progress_at > self._pace.resend_s:
            self._sent, self._progress_at = self.mark, now

    def _send(self, frames: list[Frame]) -> None:
        oldest = self._spool.oldest or max(self._spool.last_seq, self.mark) + 1
        batch = FrameBatch(rank=self._rank, oldest=oldest, frames=frames, health=self._health())
        try:
            receipt = self._transport.send(self._run_id, batch)
        except Refused as refusal:
            self._mend(refusal, frames)
            return
        self._spoke_at = self._clock()
        self._redeclared = 0
        if frames:
            self.resent += sum(frame.seq <= self._ever_sent for frame in frames)
            self._sent = frames[-1].seq
            self._ever_sent = max(self._ever_sent, self._sent)
            self._max_frames = MAX_FRAMES
        self._hear(receipt)

    def _hear(self, receipt: FramesReceipt) -> None:
        self._advance(receipt.durable)
        for command in receipt.commands:
            if command.id not in self._obeyed:
                self._obeyed.add(command.id)
                self._on_command(command)

    def _advance(self, mark: int) -> None:
        if mark > self.mark:
            self.mark, self._progress_at = mark, self._clock()
            self._spool.drop_to(mark)
        self._sent = max(self._sent, self.mark)

    def _mend(self, refusal: Refused, frames: list[Frame]) -> None:
        """Give up the frame that is refused; where it is not named, look for it by halves."""
        if refusal.status not in _UNDIGESTIBLE or not frames or not _blames_frames(refusal):
            raise refusal
        guilty = _blamed(refusal)
        if guilty is None and len(frames) > 1:
            self._max_frames = max(1, len(frames) // 2)
            return
        self._spool.set_aside(frames[min(guilty or 0, len(frames) - 1)].seq)
        self.dropped += 1
        self._say_once(refusal, "gives up that frame")

    def _end(self) -> None:
        end = messages.kept_end(self._spool)
        if end is not None:
            self._transport.end(self._run_id, end)
            messages.forget_end(self._spool)

    def _back_off(self, failure: Unreachable) -> float:
        if not self._failures:
            logger.warning("evenkeel cannot reach its server and keeps frames: %s", failure)
        self._failures += 1
        self._sent = self.mark
        longest = min(
            self._pace.backoff_s * 2 ** min(self._failures, 16), self._pace.longest_backoff_s
        )
        # The agent must not touch the job's random state, nor follow its seed.
        wait_s = failure.retry_after_s or longest * _jitter.uniform(0.5, 1.0)
        self._retry_at = self._clock() + wait_s
        return wait_s

    def _be_refused(self, refusal: Refused) -> float:
        self._sent = self.mark
        if refusal.status in (404, 409) and self._declared and self._redeclared < 2:
            self._redeclared += 1
            self._declared.clear()
            return 0.0
        self._failures += 1
        wait_s = self._pace.refused_s
        self._say_once(refusal, "keeps its frames and tries again later")
        self._retry_at = self._clock() + wait_s
        return wait_s

    def _say_once(self, refusal: Refused, consequence: str) -> None:
        what = (refusal.status, re.sub(r"\d+", "", refusal.field))
        if what not in self._said:
            self._said.add(what)
            logger.warning("evenkeel's server refused: %s. evenkeel %s", refusal, consequence)


_jitter = random.SystemRandom()


def _blames_frames(refusal: Refused) -> bool:
    return refusal.status == 413 or refusal.field.startswith("frames")


def _blamed(refusal: Refused) -> int | None:
    found = re.match(r"frames\[(\d+)\]", refusal.field)
    return int(found.group(1)) if found else None


class Inheritance:
    """Delivers, one after the other, the spools that dead jobs left in the folder."""

    def __init__(self, options: Options, transport: Transport, pace: Pace) -> None:
        self._orphans = spool_folder.adopt_orphans(
            options.spool_dir, server=options.server, limit_bytes=options.spool_limit_bytes
        )
        self._transport, self._pace = transport, pace
        self._spool: Spool | None = None
        self._courier: Courier | None = None

    def round(self) -> float:
        """Do a little of it; returns the seconds until there may be more to do."""
        if self._courier is None or self._spool is None:
            return 0.0 if self._take_next() else float("inf")
        rest_s = self._courier.round()
        if self._courier.delivered:
            spool_folder.remove(self._spool)
            self._courier = None
            return 0.0
        return rest_s

    def _take_next(self) -> bool:
        self._spool = next(self._orphans, None)
        if self._spool is None:
            return False
        belongs = messages.origin(self._spool)
        assert belongs is not None  # adopt_orphans yields no other
        _, run_id, rank = belongs
        self._courier = Courier(
            self._spool, self._transport, run_id=run_id, rank=rank, pace=self._pace
        )
        return True
