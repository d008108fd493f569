"""Wait for something to become true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 60.0


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Ask until the answer holds; fail at the deadline with the last answer."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds(value := await ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {value!r} after {DEADLINE_S} s")
        await asyncio.sleep(0.01)
    return value
