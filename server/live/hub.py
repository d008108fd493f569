"""One process's open pages, and the two loops that feed their queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import msgspec

from server.alerts.incidents.reading import headlines
from server.bus.protocol import PAGES, Bus
from server.database import Database
from server.events import (
    AlertEvent,
    Event,
    FrameEvent,
    PredictionEvent,
    RunEvent,
    ScalarsEvent,
    decode,
)
from server.live.encoding import frame_message, to_json
from server.live.queue import ConflatingQueue, PageMessage
from server.metrics import Metrics
from server.runs.repository import RunRepository
from server.runs.service import summary_of
from wire import Layout

SUMMARIES_EVERY_S = 0.5
CACHED_LAYOUTS = 1024


class Hub:
    """Distributes published events to the queues of open pages."""

    def __init__(self, bus: Bus, database: Database, metrics: Metrics) -> None:
        self._bus = bus
        self._database = database
        self._metrics = metrics
        self._queues: set[ConflatingQueue] = set()
        self._changed: dict[str, None] = {}  # runs whose summary is to be sent, in order
        self._alerts: list[AlertEvent] = []
        self._dirty = asyncio.Event()
        self._layouts: dict[tuple[str, str], Layout] = {}
        self._was_subscribed = False

    @asynccontextmanager
    async def open_queue(
        self, runs: frozenset[str] | None, project: str | None
    ) -> AsyncIterator[ConflatingQueue]:
        """A queue that is fed for as long as the context is open."""
        queue = ConflatingQueue(runs, project)
        self._queues.add(queue)
        self._metrics.live_clients.set(len(self._queues))
        try:
            yield queue
        finally:
            self._queues.discard(queue)
            self._metrics.live_clients.set(len(self._queues))

    async def listen(self) -> None:
        """Distribute published events until cancelled, or until the bus fails.

        Events published between a failure and the next subscription are lost. Pages that were
        open meanwhile are closed, and read what they missed when they reconnect.
        """
        async with self._bus.subscribe(PAGES) as subscription:
            if self._was_subscribed:
                for queue in self._queues:
                    queue.close()
            self._was_subscribed = True
            while True:
                event = decode(await subscription.next())
                if event is not None:
                    self._distribute(event)

    async def summarise(self) -> None:
        """One turn: send the runs and alerts that changed since the last turn.

        A summary costs a query, so that a run is read once a turn and not once a commit.
        """
        await self._dirty.wait()
        self._dirty.clear()
        changed, self._changed = self._changed, {}
        alerts, self._alerts = self._alerts, []
        for run_id in dict.fromkeys([*changed, *(event.run for event in alerts)]):
            await self._send_run(run_id, [event for event in alerts if event.run == run_id])
        await asyncio.sleep(SUMMARIES_EVERY_S)

    async def text_of(self, message: PageMessage, skipped: int) -> str:
        """A message as JSON text."""
        if isinstance(message, str):
            return message
        if isinstance(message, ScalarsEvent):
            return to_json({"type": "scalars", "run": message.run, "first": message.first})
        return frame_message(message, await self._layout(message.run, message.layout), skipped)

    def _distribute(self, event: Event) -> None:
        if not self._queues:
            return  # without pages, no summary needs to be read
        if isinstance(event, FrameEvent):
            for queue in self._queues:
                if queue.shows_frames(event.run):
                    queue.put_frame(event)
        elif isinstance(event, ScalarsEvent):
            for queue in self._queues:
                if queue.shows_frames(event.run):
                    queue.put_scalars(event)
        elif isinstance(event, PredictionEvent):
            text = to_json({"type": "prediction", "run": event.run, "step": event.step})
            for queue in self._queues:
                if queue.shows_frames(event.run):
                    queue.put(("prediction", event.run, event.step), text)
        else:
            self._defer(event)

    def _defer(self, event: RunEvent | AlertEvent) -> None:
        """Keep an event for the next turn of `summarise`."""
        if isinstance(event, RunEvent):
            self._changed[event.run] = None
        else:
            self._alerts.append(event)
        self._dirty.set()

    async def _send_run(self, run_id: str, alerts: list[AlertEvent]) -> None:
        summary = await summary_of(self._database, run_id)
        if summary is None:
            return
        text = f'{{"type":"run","run":{summary.model_dump_json()}}}'
        queues = [queue for queue in self._queues if queue.shows_run(run_id, summary.project)]
        changed: dict[str, None] = {}  # incidents, in order
        for event in alerts:
            alert = msgspec.msgpack.decode(event.alert)
            alert_text = to_json({"type": "alert", "alert": alert})
            for queue in queues:
                queue.put(("alert", alert["id"]), alert_text)
            if alert.get("incident"):
                changed[alert["incident"]] = None
        await self._send_incidents(changed, summary.project)
        for queue in queues:
            queue.put(("run", run_id), text)

    async def _send_incidents(self, ids: Collection[str], project: str) -> None:
        """Send incidents to every page that may see them: also to one that shows another run."""
        if not ids:
            return
        queues = [queue for queue in self._queues if queue.project in (None, project)]
        for incident in await headlines(self._database, ids):
            text = to_json({"type": "incident", "incident": incident})
            for queue in queues:
                queue.put(("incident", incident["id"]), text)

    async def _layout(self, run_id: str, layout_hash: str) -> Layout:
        if (run_id, layout_hash) not in self._layouts:
            if len(self._layouts) >= CACHED_LAYOUTS:
                self._layouts.clear()  # costs one query a run that is still watched
            async with self._database.reading() as session:
                layouts = await RunRepository(session).layouts_of(run_id)
            self._layouts.update({(run_id, digest): layout for digest, layout in layouts.items()})
        return self._layouts[run_id, layout_hash]
