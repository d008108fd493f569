"""Wait for something to become true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 60.0


async def eventually(look: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Look until what is seen holds; fail at the deadline with what was seen last."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds(seen := await look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {seen!r} after {DEADLINE_S} s")
        await asyncio.sleep(0.01)
    return seen
