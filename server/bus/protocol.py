"""The small protocol that both buses speak."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

FRAMES = "frames"  # batches on their way to the database; read by WRITER
COMMITTED = "committed"  # ids of runs with new durable frames; read by DIAGNOSIS
SPECS = "specs"  # ids of runs with a new model spec; read by PREDICTOR
PAGES = "pages"  # published messages for open pages

WRITER = "writer"
DIAGNOSIS = "diagnosis"
PREDICTOR = "predictor"


class BusFull(Exception):
    """The stream holds as much as it may: the sender keeps its data and comes back."""


class BusAway(ConnectionError):
    """The bus does not answer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a stream; it is delivered again unless it is acknowledged."""

    id: str
    body: bytes


class Subscription(Protocol):
    """Messages published since the subscription began."""

    async def next(self) -> bytes:
        """Wait for the next message."""


class Bus(Protocol):
    """Streams that one member of a group reads, and channels that every subscriber hears."""

    async def append(self, stream: str, body: bytes) -> None:
        """Put a message on a stream.

        Raises:
            BusFull: if the stream is at its capacity.
        """

    async def hand_over(self, stream: str, body: bytes) -> None:
        """`append`, and return once the message outlives this process.

        Redis keeps it from the moment it has it. In-process memory keeps nothing, so there
        this waits until the stream's reader has acknowledged the message.
        """

    async def read(self, stream: str, group: str, *, count: int, wait_s: float) -> list[Entry]:
        """Up to `count` entries for this member of the group; [] when none came in time."""

    async def acknowledge(self, stream: str, group: str, ids: list[str]) -> None:
        """These entries are dealt with and may be forgotten."""

    async def publish(self, channel: str, body: bytes) -> None:
        """Tell every subscriber; nobody keeps it."""

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[Subscription]:
        """Hear a channel for as long as the context is open."""

    async def pending(self, stream: str) -> int:
        """Entries on the stream that are not acknowledged."""

    async def ping(self) -> None:
        """Raise unless the bus answers."""

    async def close(self) -> None:
        """Let go of every connection."""
