"""One process's open pages, and the two loops that feed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from server.bus.protocol import PAGES, Bus
from server.database import Database
from server.live.encoding import frame_message, to_json
from server.live.mailbox import Mail, Mailbox, Ready, key_of
from server.live.messages import AlertNews, FrameNews, News, PredictionNews, RunNews, read
from server.metrics import Metrics
from server.runs.repository import RunRepository
from server.runs.service import summary_of
from wire import Layout

SUMMARIES_EVERY_S = 0.5
LAYOUTS_KEPT = 1024


class Hub:
    """Hands news from the bus to the mailboxes of open pages."""

    def __init__(self, bus: Bus, database: Database, metrics: Metrics) -> None:
        self._bus = bus
        self._database = database
        self._metrics = metrics
        self._boxes: set[Mailbox] = set()
        self._changed: dict[str, None] = {}  # runs whose summary is to be told, in order
        self._alerts: list[AlertNews] = []
        self._dirty = asyncio.Event()
        self._layouts: dict[tuple[str, str], Layout] = {}
        self._has_heard = False

    @asynccontextmanager
    async def open_box(
        self, runs: frozenset[str] | None, project: str | None
    ) -> AsyncIterator[Mailbox]:
        """A mailbox that is fed for as long as the context is open."""
        box = Mailbox(runs, project)
        self._boxes.add(box)
        self._metrics.live_clients.set(len(self._boxes))
        try:
            yield box
        finally:
            self._boxes.discard(box)
            self._metrics.live_clients.set(len(self._boxes))

    async def listen(self) -> None:
        """Hear the bus until cancelled or until it fails.

        What was said since an earlier hearing failed is lost: open pages are sent away, and read
        it when they come back.
        """
        async with self._bus.subscribe(PAGES) as heard:
            if self._has_heard:
                for box in self._boxes:
                    box.close()
            self._has_heard = True
            while True:
                self._sort(read(await heard.next()))

    async def summarise(self) -> None:
        """One turn: tell which runs and alerts have changed since the last one."""
        await self._dirty.wait()
        self._dirty.clear()
        changed, self._changed = self._changed, {}
        alerts, self._alerts = self._alerts, []
        for run_id in dict.fromkeys([*changed, *(one.run for one in alerts)]):
            await self._tell_run(run_id, [one for one in alerts if one.run == run_id])
        await asyncio.sleep(SUMMARIES_EVERY_S)

    async def text_of(self, mail: Mail, skipped: int) -> str:
        """A message as JSON text."""
        if isinstance(mail, Ready):
            return mail.text
        return frame_message(mail, await self._layout(mail.run, mail.layout), skipped)

    def _sort(self, news: News) -> None:
        if not self._boxes:
            return
        if isinstance(news, FrameNews):
            for box in self._boxes:
                if box.wants_frames(news.run):
                    box.put_frame(news)
        elif isinstance(news, PredictionNews):
            text = to_json({"type": "prediction", "run": news.run, "step": news.step})
            for box in self._boxes:
                if box.wants_frames(news.run):
                    box.put(key_of(news), text)
        else:
            self._note(news)

    def _note(self, news: RunNews | AlertNews) -> None:
        if isinstance(news, RunNews):
            self._changed[news.run] = None
        else:
            self._alerts.append(news)
        self._dirty.set()

    async def _tell_run(self, run_id: str, alerts: list[AlertNews]) -> None:
        found = await summary_of(self._database, run_id)
        if found is None:
            return
        summary, project = found
        run_text = f'{{"type":"run","run":{summary.model_dump_json()}}}'
        boxes = [box for box in self._boxes if box.wants_events(run_id, project)]
        for news in alerts:
            alert = msgspec.msgpack.decode(news.alert)
            text = to_json({"type": "alert", "alert": alert})
            for box in boxes:
                box.put(key_of(news, alert["id"]), text)
        for box in boxes:
            box.put(("run", run_id), run_text)

    async def _layout(self, run_id: str, found: str) -> Layout:
        if (run_id, found) not in self._layouts:
            if len(self._layouts) >= LAYOUTS_KEPT:
                self._layouts.clear()
            async with self._database.reading() as session:
                declared = await RunRepository(session).layouts_of(run_id)
            self._layouts.update({(run_id, one): layout for one, layout in declared.items()})
        return self._layouts[run_id, found]
