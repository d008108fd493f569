"""The protocol of both buses."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

FRAMES = "frames"  # batches on their way to the database; read by WRITER
COMMITTED = "committed"  # runs with new durable frames; read by DIAGNOSIS
SPECS = "specs"  # runs with a new model spec; read by PREDICTOR
PAGES = "pages"  # published events for open pages

WRITER = "writer"
DIAGNOSIS = "diagnosis"
PREDICTOR = "predictor"


class BusFull(Exception):
    """The stream is at its capacity: the agent keeps its frames and sends them again later."""


class BusAway(ConnectionError):
    """The bus does not answer."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream; it is delivered again unless it is acknowledged.

    Attributes:
        id: assigned by the stream.
        run_id: the run that it is about.
        body: on `FRAMES`, a batch as its agent sent it (`wire.decode_batch`); else empty.
        received_at: on `FRAMES`, when the batch arrived, in seconds since the epoch; else 0.
    """

    id: str
    run_id: str
    body: bytes = b""
    received_at: float = 0.0


class Subscription(Protocol):
    """Bodies published on a channel since the subscription began."""

    async def next(self) -> bytes:
        """Wait for the next body."""


class Bus(Protocol):
    """Streams, where one member of a group reads each message, and channels, where all do."""

    async def append(
        self, stream: str, run_id: str, body: bytes = b"", *, received_at: float = 0.0
    ) -> None:
        """Put a message on a stream.

        Raises:
            BusFull: if the stream is at its capacity.
            BusAway: if the bus does not answer.
        """

    async def hand_over(
        self, stream: str, run_id: str, body: bytes = b"", *, received_at: float = 0.0
    ) -> None:
        """`append`, and return once the message outlives this process.

        Redis outlives it. In-process memory does not, so that the embedded bus waits until the
        stream's reader has acknowledged the message.
        """

    async def read(self, stream: str, group: str, *, count: int, wait_s: float) -> list[Message]:
        """Up to `count` messages for this member of the group; [] when none came in time."""

    async def acknowledge(self, stream: str, group: str, ids: list[str]) -> None:
        """These messages are dealt with and may be forgotten."""

    async def publish(self, channel: str, body: bytes) -> None:
        """Send to every current subscriber; nothing is stored."""

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[Subscription]:
        """A subscription for as long as the context is open."""

    async def pending(self, stream: str) -> int:
        """Messages on the stream that are not acknowledged."""

    async def ping(self) -> None:
        """Raise unless the bus answers."""

    async def close(self) -> None:
        """Close every connection."""
