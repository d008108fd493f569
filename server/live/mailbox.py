"""What waits for one page: the newest of everything, however slow the page is."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass

from server.live.messages import AlertNews, FrameNews, PredictionNews


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that is JSON text already."""

    text: str


Mail = FrameNews | Ready


class Mailbox:
    """A bounded box: of each run it keeps one frame, of each alert its last state.

    Attributes:
        runs: the runs whose frames are wanted; None is the run list's view of every run.
        project: the only project that may be seen, or None.
        closed: whether news was missed, so that the page has to read anew and come back.
    """

    def __init__(self, runs: frozenset[str] | None, project: str | None) -> None:
        self.runs = runs
        self.project = project
        self.closed = False
        self._waiting: dict[Hashable, Mail] = {}
        self._skipped: dict[str, int] = {}
        self._arrived = asyncio.Event()

    def wants_frames(self, run_id: str) -> bool:
        """Whether frames of this run are for this page."""
        return self.runs is not None and run_id in self.runs

    def wants_events(self, run_id: str, project: str) -> bool:
        """Whether alerts and changes of this run are for this page."""
        if self.runs is not None:
            return run_id in self.runs
        return self.project is None or self.project == project

    def put_frame(self, news: FrameNews) -> None:
        """Keep a frame in place of an older one of its run, which counts as skipped."""
        replaced = ("frame", news.run) in self._waiting
        self._skipped[news.run] = self._skipped.get(news.run, 0) + news.skipped + replaced
        self._put(("frame", news.run), news)

    def put(self, key: Hashable, text: str) -> None:
        """Keep a message in place of an older one of this key."""
        self._put(key, Ready(text))

    def close(self) -> None:
        """Take no more; whoever waits for mail is woken."""
        self.closed = True
        self._arrived.set()

    def _put(self, key: Hashable, mail: Mail) -> None:
        self._waiting.pop(key, None)  # a newer message takes its place in line, too
        self._waiting[key] = mail
        self._arrived.set()

    async def take(self, wait_s: float) -> list[tuple[Mail, int]]:
        """Everything that waits, oldest first, each with the frames it skipped; [] if nothing."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), wait_s)
        self._arrived.clear()
        waiting, self._waiting = self._waiting, {}
        skipped, self._skipped = self._skipped, {}
        return [
            (mail, skipped.get(mail.run, 0) if isinstance(mail, FrameNews) else 0)
            for mail in waiting.values()
        ]


def key_of(news: PredictionNews | AlertNews, identity: str = "") -> Hashable:
    """Which message a newer one replaces."""
    if isinstance(news, PredictionNews):
        return ("prediction", news.run, news.step)
    return ("alert", identity)
