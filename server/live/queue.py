"""The messages that wait for one page: only the newest of each kind, however slow the page is."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress

from server.events import FrameEvent, ScalarsEvent

# JSON text, or an event that becomes text only if it is sent: most of them are replaced before.
PageMessage = FrameEvent | ScalarsEvent | str


class ConflatingQueue:
    """A bounded queue for one page: a newer message replaces the older one of the same key.

    Attributes:
        runs: runs whose frames and alerts the page shows; None is the list of every run.
        project: the only project that the page may show, or None for every project.
        closed: whether events were missed, so that the page must reconnect and read anew.
    """

    def __init__(self, runs: frozenset[str] | None, project: str | None) -> None:
        self.runs = runs
        self.project = project
        self.closed = False
        self._waiting: dict[Hashable, PageMessage] = {}
        self._skipped: dict[str, int] = {}
        self._arrived = asyncio.Event()

    def shows_frames(self, run_id: str) -> bool:
        """Whether the page shows this run's frames."""
        return self.runs is not None and run_id in self.runs

    def shows_run(self, run_id: str, project: str) -> bool:
        """Whether the page shows this run's summary and alerts."""
        if self.runs is not None:
            return run_id in self.runs
        return self.project is None or self.project == project

    def put_frame(self, event: FrameEvent) -> None:
        """Replace the run's waiting frame, which then counts as skipped."""
        replaced = ("frame", event.run) in self._waiting
        self._skipped[event.run] = self._skipped.get(event.run, 0) + event.skipped + replaced
        self.put(("frame", event.run), event)

    def put_scalars(self, event: ScalarsEvent) -> None:
        """Let the run's waiting message speak of these scalars, too."""
        key = ("scalars", event.run)
        waiting = self._waiting.get(key)
        first = min(
            event.first, waiting.first if isinstance(waiting, ScalarsEvent) else event.first
        )
        self.put(key, ScalarsEvent(event.run, first))

    def put(self, key: Hashable, message: PageMessage) -> None:
        """Replace the waiting message of this key."""
        self._waiting.pop(key, None)  # a dict keeps the old place of a key that is set again
        self._waiting[key] = message
        self._arrived.set()

    def close(self) -> None:
        """Mark the queue as incomplete and wake the sender, which then closes the page."""
        self.closed = True
        self._arrived.set()

    async def take(self, wait_s: float) -> list[tuple[PageMessage, int]]:
        """Every waiting message, oldest first, each with the frames it skipped; [] if none came."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), wait_s)
        self._arrived.clear()
        waiting, self._waiting = self._waiting, {}
        skipped, self._skipped = self._skipped, {}
        return [
            (message, skipped.get(message.run, 0) if isinstance(message, FrameEvent) else 0)
            for message in waiting.values()
        ]
