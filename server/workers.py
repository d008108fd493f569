"""Background work: loops that outlive a failure of what they depend on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from server.metrics import Metrics

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
CANCEL_AGAIN_S = 0.1
PATIENCE_S = 5.0  # a database that is away keeps a worker for longer

T = TypeVar("T")

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


async def _take_turns(
    name: str, turn: Callable[[], Awaitable[None]], metrics: Metrics, ending: asyncio.Event
) -> None:
    while not ending.is_set():
        await persist(name, turn, metrics)


@asynccontextmanager
async def running(
    turns: dict[str, Callable[[], Awaitable[None]]],
    metrics: Metrics,
    busy: Callable[[asyncio.Task[None]], bool],
) -> AsyncIterator[None]:
    """Run these workers for as long as the context is open.

    At its end a worker that is `busy` is given `PATIENCE_S` to get to where it can be cancelled.
    """
    ending = asyncio.Event()
    tasks = [
        asyncio.create_task(_take_turns(name, turn, metrics, ending), name=name)
        for name, turn in turns.items()
    ]
    try:
        yield
    finally:
        ending.set()
        await _end(set(tasks), busy)


async def _end(tasks: set[asyncio.Task[None]], busy: Callable[[asyncio.Task[None]], bool]) -> None:
    """Cancel until all have ended: a client that is just connecting may swallow the first."""
    loop = asyncio.get_running_loop()
    impatient_at = loop.time() + PATIENCE_S
    while tasks:
        for task in tasks:
            if not busy(task) or loop.time() > impatient_at:
                task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
