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
CANCEL_AGAIN_S = 0.2

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def persist(name: str, attempt: Callable[[], Awaitable[T]], metrics: Metrics) -> T:
    """Try until it works, waiting longer each time: what is in hand must not be lost."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            return await attempt()
        except Exception as error:  # the worker loop: a database or Redis that is away comes back
            metrics.worker_failures.labels(name).inc()
            log.warning("worker_failed", worker=name, error=repr(error), again_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)


async def forever(name: str, turn: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """Take turns until cancelled."""
    while True:
        await persist(name, turn, metrics)


@asynccontextmanager
async def running(
    turns: dict[str, Callable[[], Awaitable[None]]], metrics: Metrics
) -> AsyncIterator[None]:
    """Run these workers for as long as the context is open."""
    tasks = [
        asyncio.create_task(forever(name, turn, metrics), name=name) for name, turn in turns.items()
    ]
    try:
        yield
    finally:
        await _end(set(tasks))


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: a client that is just connecting may swallow the first."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
