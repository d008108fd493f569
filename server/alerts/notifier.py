"""Queue alerts for their targets, each by itself, and try again where one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter

from server.alerts.schemas import Alert
from server.alerts.targets import DeliveryError, Target, target_of

ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
QUEUE_SIZE = 1000  # alerts a target may be behind before the oldest is given up

log = structlog.get_logger(__name__)


class Notifier:
    """Sends alerts to every configured target.

    `notify` returns at once. A target that is slow or away delays no other, and never the loop.
    """

    def __init__(
        self,
        urls: Sequence[str],
        registry: CollectorRegistry,
        *,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """Raise `StartError` for a URL that cannot be sent to."""
        outcomes = Counter(
            "evenkeel_alert_deliveries",
            "Alerts sent to webhooks, by target and outcome (delivered, retried, given_up).",
            ["target", "outcome"],
            registry=registry,
        )
        self._senders = [_Sender(target_of(url), outcomes, first_pause_s) for url in urls]

    def notify(self, alerts: Iterable[Alert]) -> None:
        """Queue alerts for every target."""
        for alert in alerts:
            for sender in self._senders:
                sender.put(alert)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send for as long as the context is open."""
        tasks = [asyncio.create_task(sender.run()) for sender in self._senders]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for sender in self._senders:
                await sender.target.close()


class _Sender:
    """One target's queue and its worker."""

    def __init__(self, target: Target, outcomes: Counter, first_pause_s: float) -> None:
        self.target = target
        self._outcomes = outcomes
        self._first_pause_s = first_pause_s
        self._queue: asyncio.Queue[Alert] = asyncio.Queue(QUEUE_SIZE)
        self._failing = False

    def put(self, alert: Alert) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self._count("given_up")
        self._queue.put_nowait(alert)

    async def run(self) -> None:
        while True:
            await self._deliver(await self._queue.get())

    async def _deliver(self, alert: Alert) -> None:
        pause = self._first_pause_s
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self.target.send(alert)
            except DeliveryError as error:
                self._note_failure(error)
                if attempt == ATTEMPTS or not error.worth_retrying:
                    self._count("given_up")
                    return
                self._count("retried")
                await asyncio.sleep(pause)
                pause *= 2
            else:
                self._failing = False
                self._count("delivered")
                return

    def _note_failure(self, error: DeliveryError) -> None:
        # Once until it succeeds again: a target that is away for a night fills no log.
        if not self._failing:
            log.warning("alert_not_delivered", target=self.target.name, error=str(error))
        self._failing = True

    def _count(self, outcome: str) -> None:
        self._outcomes.labels(self.target.name, outcome).inc()
