"""The bus of a single-machine server: queues in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from server.bus.protocol import BusFull, Message

SUBSCRIBER_BACKLOG = 1024


@dataclass(slots=True)
class _Stream:
    unread: deque[Message] = field(default_factory=deque)
    # One for every message that is unread or unacknowledged, by its id.
    settled: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class _Subscription:
    """One subscriber's backlog; the oldest body is dropped when the subscriber falls behind."""

    def __init__(self) -> None:
        self._bodies: asyncio.Queue[bytes] = asyncio.Queue(maxsize=SUBSCRIBER_BACKLOG)

    def put(self, body: bytes) -> None:
        if self._bodies.full():
            self._bodies.get_nowait()
        self._bodies.put_nowait(body)

    async def next(self) -> bytes:
        """Wait for the next body."""
        return await self._bodies.get()


class EmbeddedBus:
    """Streams and channels of one event loop.

    A stream has one reading group. Messages that are not acknowledged when the process ends are
    gone, which loses nothing: `hand_over` had not returned for them, so their agent resends.
    """

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._streams: defaultdict[str, _Stream] = defaultdict(_Stream)
        self._channels: defaultdict[str, set[_Subscription]] = defaultdict(set)
        self._last_id = 0

    async def append(
        self, stream: str, run_id: str, body: bytes = b"", *, received_at: float = 0.0
    ) -> None:
        """Put a message on a stream."""
        self._put(stream, run_id, body, received_at)

    async def hand_over(
        self, stream: str, run_id: str, body: bytes = b"", *, received_at: float = 0.0
    ) -> None:
        """Put a message on a stream and wait until its reader has acknowledged it."""
        # Shielded: a request that times out must not cancel the future that the reader settles.
        await asyncio.shield(self._put(stream, run_id, body, received_at))

    def _put(
        self, stream: str, run_id: str, body: bytes, received_at: float
    ) -> asyncio.Future[None]:
        queue = self._streams[stream]
        if len(queue.settled) >= self._capacity:
            raise BusFull(stream)
        self._last_id += 1
        message = Message(str(self._last_id), run_id, body, received_at)
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.settled[message.id] = settled
        queue.unread.append(message)
        queue.arrived.set()
        return settled

    async def read(self, stream: str, group: str, *, count: int, wait_s: float) -> list[Message]:  # noqa: ARG002
        """Up to `count` messages; [] when none came within `wait_s`."""
        queue = self._streams[stream]
        if not queue.unread:
            queue.arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(queue.arrived.wait(), wait_s)
        return [queue.unread.popleft() for _ in range(min(count, len(queue.unread)))]

    async def acknowledge(self, stream: str, group: str, ids: list[str]) -> None:  # noqa: ARG002
        """Forget these messages and wake whoever handed them over."""
        queue = self._streams[stream]
        for message_id in ids:
            settled = queue.settled.pop(message_id, None)
            if settled is not None and not settled.done():
                settled.set_result(None)

    async def publish(self, channel: str, body: bytes) -> None:
        """Send to every current subscriber."""
        for subscription in self._channels[channel]:
            subscription.put(body)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[_Subscription]:
        """A subscription for as long as the context is open."""
        subscription = _Subscription()
        self._channels[channel].add(subscription)
        try:
            yield subscription
        finally:
            self._channels[channel].discard(subscription)

    async def pending(self, stream: str) -> int:
        """Messages that are not acknowledged."""
        return len(self._streams[stream].settled)

    async def ping(self) -> None:
        """In-process queues always answer."""

    async def close(self) -> None:
        """There are no connections to close."""
