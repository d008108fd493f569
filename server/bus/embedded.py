"""The bus of a single-machine server: queues in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from server.bus.protocol import BusFull, Entry

PAGE_BACKLOG = 1024


@dataclass(slots=True)
class _Stream:
    waiting: deque[Entry] = field(default_factory=deque)
    settled: dict[str, asyncio.Future[None]] = field(default_factory=dict)  # by unread/unacked id
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class _Queue:
    """One subscriber's backlog; the oldest message gives way when it falls behind."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[bytes] = asyncio.Queue(maxsize=PAGE_BACKLOG)

    def put(self, body: bytes) -> None:
        if self._messages.full():
            self._messages.get_nowait()
        self._messages.put_nowait(body)

    async def next(self) -> bytes:
        """Wait for the next message."""
        return await self._messages.get()


class EmbeddedBus:
    """Streams and channels of one event loop.

    A stream has one reading group. What is read and not acknowledged when the process ends is
    gone, which loses nothing: `hand_over` had not returned for it.
    """

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._streams: defaultdict[str, _Stream] = defaultdict(_Stream)
        self._channels: defaultdict[str, set[_Queue]] = defaultdict(set)
        self._last_id = 0

    async def append(self, stream: str, body: bytes) -> None:
        """Put a message on a stream."""
        self._put(stream, body)

    async def hand_over(self, stream: str, body: bytes) -> None:
        """Put a message on a stream and wait until its reader has acknowledged it."""
        await asyncio.shield(self._put(stream, body))

    def _put(self, stream: str, body: bytes) -> asyncio.Future[None]:
        held = self._streams[stream]
        if len(held.settled) >= self._capacity:
            raise BusFull(stream)
        self._last_id += 1
        entry = Entry(id=str(self._last_id), body=body)
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held.settled[entry.id] = settled
        held.waiting.append(entry)
        held.arrived.set()
        return settled

    async def read(self, stream: str, group: str, *, count: int, wait_s: float) -> list[Entry]:  # noqa: ARG002
        """Up to `count` entries; [] when none came within `wait_s`."""
        held = self._streams[stream]
        if not held.waiting:
            held.arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(held.arrived.wait(), wait_s)
        return [held.waiting.popleft() for _ in range(min(count, len(held.waiting)))]

    async def acknowledge(self, stream: str, group: str, ids: list[str]) -> None:  # noqa: ARG002
        """Forget these entries and wake whoever handed them over."""
        held = self._streams[stream]
        for one in ids:
            settled = held.settled.pop(one, None)
            if settled is not None and not settled.done():
                settled.set_result(None)

    async def publish(self, channel: str, body: bytes) -> None:
        """Give every subscriber the message."""
        for queue in self._channels[channel]:
            queue.put(body)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[_Queue]:
        """Hear a channel for as long as the context is open."""
        queue = _Queue()
        self._channels[channel].add(queue)
        try:
            yield queue
        finally:
            self._channels[channel].discard(queue)

    async def pending(self, stream: str) -> int:
        """Entries that are not acknowledged."""
        return len(self._streams[stream].settled)

    async def ping(self) -> None:
        """In-process queues always answer."""

    async def close(self) -> None:
        """Nothing to let go of."""
