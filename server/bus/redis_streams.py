"""The bus of a server of several processes: Redis Streams and publish/subscribe."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from server.bus.protocol import BusAway, BusFull, Message

PREFIX = "evenkeel:"
RUN, BODY, TIME = b"r", b"b", b"t"  # fields of an entry
CLAIM_AFTER_MS = 15_000  # a member silent for this long has died: its messages go to others
CLAIM_EVERY_S = 5.0


@contextmanager
def _answering() -> Iterator[None]:
    """Raise `BusAway` for whatever keeps Redis from answering."""
    try:
        yield
    except ResponseError:
        raise
    except RedisError as error:
        raise BusAway(f"Redis does not answer: {error}") from error


class _Subscription:
    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    async def next(self) -> bytes:
        """Wait for the next body."""
        while True:
            with _answering():
                message = await self._pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=30.0
                )
            if message is not None:
                body: bytes = message["data"]
                return body


class RedisBus:
    """Streams with one reading group each; an acknowledged message is deleted.

    Redis is not the durable copy (the agent's spool is, until the database has the frames), so a
    Redis that comes back empty costs a resend and nothing else.
    """

    def __init__(self, url: str, *, capacity: int) -> None:
        client: Any = Redis  # separate stubs for redis lag behind its own types
        self._redis: Any = client.from_url(url, protocol=2, health_check_interval=10)
        # A subscription that reconnects by itself would hide that it has missed events.
        self._subscriber: Any = client.from_url(
            url, protocol=2, health_check_interval=10, retry=Retry(NoBackoff(), 0)
        )
        self._capacity = capacity
        self._member = f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        self._claimed_at: dict[str, float] = {}

    async def append(
        self, stream: str, run_id: str, body: bytes = b"", *, received_at: float = 0.0
    ) -> None:
        """Put a message on a stream."""
        with _answering():
            if await self._redis.xlen(PREFIX + stream) >= self._capacity:
                raise BusFull(stream)
            fields = {RUN: run_id, BODY: body, TIME: repr(received_at)}
            await self._redis.xadd(PREFIX + stream, fields)

    async def hand_over(
        self, stream: str, run_id: str, body: bytes = b"", *, received_at: float = 0.0
    ) -> None:
        """`append`: Redis outlives this process."""
        await self.append(stream, run_id, body, received_at=received_at)

    async def read(self, stream: str, group: str, *, count: int, wait_s: float) -> list[Message]:
        """New messages for this member, or those of a member that died."""
        with _answering():
            try:
                claimed = await self._claim(stream, group, count)
                return claimed or await self._read_new(stream, group, count, wait_s)
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self._create_group(stream, group)  # first start, or Redis came back empty
                return []

    async def _read_new(self, stream: str, group: str, count: int, wait_s: float) -> list[Message]:
        block_ms = max(1, int(wait_s * 1000))  # 0 would wait for ever
        replies = await self._redis.xreadgroup(
            group, self._member, {PREFIX + stream: ">"}, count=count, block=block_ms
        )
        return [message for _, entries in replies or [] for message in _messages(entries)]

    async def _claim(self, stream: str, group: str, count: int) -> list[Message]:
        now = time.monotonic()
        if now - self._claimed_at.get(stream, -CLAIM_EVERY_S) < CLAIM_EVERY_S:
            return []
        self._claimed_at[stream] = now
        reply = await self._redis.xautoclaim(
            PREFIX + stream, group, self._member, min_idle_time=CLAIM_AFTER_MS, count=count
        )
        return list(_messages(reply[1]))

    async def _create_group(self, stream: str, group: str) -> None:
        try:
            await self._redis.xgroup_create(PREFIX + stream, group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another process was faster
                raise

    async def acknowledge(self, stream: str, group: str, ids: list[str]) -> None:
        """Forget these messages."""
        if not ids:
            return
        with _answering():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(PREFIX + stream, group, *ids)
                pipe.xdel(PREFIX + stream, *ids)
                await pipe.execute()

    async def publish(self, channel: str, body: bytes) -> None:
        """Send to every subscriber of every process."""
        with _answering():
            await self._redis.publish(PREFIX + channel, body)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[_Subscription]:
        """A subscription for as long as the context is open."""
        async with self._subscriber.pubsub() as pubsub:
            with _answering():
                await pubsub.subscribe(PREFIX + channel)
            yield _Subscription(pubsub)

    async def pending(self, stream: str) -> int:
        """Messages that are not acknowledged."""
        with _answering():
            return int(await self._redis.xlen(PREFIX + stream))

    async def ping(self) -> None:
        """Raise unless Redis answers."""
        with _answering():
            await self._redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._subscriber.aclose()


def _messages(entries: Iterable[tuple[bytes | str, Mapping[bytes, bytes]]]) -> Iterator[Message]:
    for entry_id, fields in entries:
        if fields:  # a claimed entry that was deleted meanwhile comes back without fields
            yield _message(_text(entry_id), fields)


def _message(entry_id: str, fields: Mapping[bytes, bytes]) -> Message:
    """The message of an entry; one that another version wrote has no run, and no readable body."""
    received_at = 0.0
    with suppress(ValueError):
        received_at = float(fields.get(TIME, b"0"))
    run_id = fields.get(RUN, b"").decode("ascii", "replace")
    return Message(entry_id, run_id, fields.get(BODY, b""), received_at)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
