"""Background work: loops that outlive a failure of what they depend on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from server.metrics import Metrics

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
CANCEL_AGAIN_S = 0.1
PATIENCE_S = 5.0  # a database that is away keeps a worker for longer, and a slow target, too

T = TypeVar("T")
Turn = Callable[[], Awaitable[None]]
Busy = Callable[["asyncio.Task[None]"], bool]

log = structlog.get_logger(__name__)


async def persist(name: str, attempt: Callable[[], Awaitable[T]], metrics: Metrics) -> T:
    """Try until it works, waiting longer each time: what `attempt` holds must not be lost."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            return await attempt()
        except Exception as error:  # the worker loop: a database or Redis that is away comes back
            metrics.worker_failures.labels(name).inc()
            log.warning("worker_failed", worker=name, error=repr(error), retry_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)


class Workers:
    """The loops of one process: those it begins with, and those that come and go."""

    def __init__(self, metrics: Metrics, busy: Busy) -> None:
        """A worker that is `busy` is not cut off before it has had `PATIENCE_S`."""
        self._metrics = metrics
        self._busy = busy
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending = asyncio.Event()

    def start(self, name: str, turn: Turn) -> None:
        """Begin to take turns under a name that nobody has; nothing begins at the end."""
        if not self._ending.is_set():
            self._tasks[name] = asyncio.create_task(self._take_turns(name, turn), name=name)

    async def stop(self, name: str) -> None:
        """End one worker; nothing happens where there is none."""
        task = self._tasks.pop(name, None)
        if task is not None:
            await self._end({task})

    @asynccontextmanager
    async def running(self, turns: Mapping[str, Turn]) -> AsyncIterator[None]:
        """Run these workers, and those that are started meanwhile, while the context is open."""
        for name, turn in turns.items():
            self.start(name, turn)
        try:
            yield
        finally:
            self._ending.set()
            await self._end(set(self._tasks.values()))

    async def _take_turns(self, name: str, turn: Turn) -> None:
        while not self._ending.is_set():
            await persist(name, turn, self._metrics)

    async def _end(self, tasks: set[asyncio.Task[None]]) -> None:
        """Cancel until all have ended: a client that is just connecting may swallow the first."""
        loop = asyncio.get_running_loop()
        impatient_at = loop.time() + PATIENCE_S
        while tasks:
            for task in tasks:
                if not self._busy(task) or loop.time() > impatient_at:
                    task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)


@asynccontextmanager
async def running(turns: Mapping[str, Turn], metrics: Metrics, busy: Busy) -> AsyncIterator[None]:
    """Run these workers for as long as the context is open."""
    async with Workers(metrics, busy).running(turns):
        yield
