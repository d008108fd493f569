"""A receiver of webhooks on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """One request: header names in lower case."""

    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """Its body."""
        return msgspec.json.decode(self.body, type=dict[str, object])

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self.headers["idempotency-key"]


class Receiver:
    """Answers each request with the next status, then with 200; keeps what it was sent."""

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        self.statuses = list(statuses)
        self.requests: list[Request] = []
        self.answer_headers = ""
        self.url = ""
        self._news = asyncio.Condition()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            request = await _read(reader)
        except asyncio.IncompleteReadError:
            return  # the sender ended before it had sent
        status = self.status_of(request)
        head = f"HTTP/1.1 {status} -\r\n{self.answer_headers}content-length: 0\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode())
        await writer.drain()
        async with self._news:
            self.requests.append(request)
            self._news.notify_all()

    def status_of(self, request: Request) -> int:
        """The status that a request is answered with."""
        return self.statuses.pop(0) if self.statuses else 200

    async def until(self, count: int) -> list[Request]:
        """Wait for so many requests."""
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)
        return self.requests


async def _read(reader: asyncio.StreamReader) -> Request:
    _, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    headers = {name.lower(): value for name, value in pairs}
    return Request(headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def listening(answer: Connected, port: int = 0) -> AsyncIterator[int]:
    """A TCP server, on a free port unless told otherwise; it outlives none of its connections."""
    connections: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.append(task)
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*connections)


@asynccontextmanager
async def receiving(*statuses: int, port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver that answers with these statuses first."""
    receiver = Receiver(statuses)
    async with listening(receiver.answer, port) as taken:
        receiver.url = f"http://127.0.0.1:{taken}/hook"
        yield receiver
