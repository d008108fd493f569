"""An HTTP server that stores what agents send, as docs/api.md says, and fails on demand."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from wire import (
    Frame,
    FramesReceipt,
    Health,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    SpecRevision,
    WireError,
    decode_batch,
)

Answer = tuple[int, bytes]


def refusal(status: int, field_name: str, message: str = "not like this") -> Answer:
    """An error as the API words it."""
    error = {"code": "refused", "field": field_name, "message": message, "fix": "do otherwise"}
    return status, msgspec.json.encode({"error": error})


@dataclass
class Store:
    """What the server has stored; outlives the server.

    Attributes:
        commits: whether frames become durable at once; else only `commit` makes them so.
        faults: answers to give instead, first come first served, by kind of request.
        accepts: returns why a frame is refused, "" where it is not.
    """

    layouts: dict[str, set[str]] = field(default_factory=dict)
    declarations: list[RunDeclaration] = field(default_factory=list)
    frames: dict[tuple[str, int], dict[int, Frame]] = field(default_factory=dict)
    durable: dict[tuple[str, int], int] = field(default_factory=dict)
    revisions: list[SpecRevision] = field(default_factory=list)
    ends: dict[str, RunEnd] = field(default_factory=dict)
    healths: list[Health] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    faults: dict[str, list[Answer]] = field(default_factory=dict)
    commits: bool = True
    accepts: Callable[[Frame], str] = lambda _: ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, claim: Callable[[Store], bool], timeout_s: float = 20.0) -> None:
        """Wait until the claim holds; AssertionError when it does not in time."""
        with self.changed:
            assert self.changed.wait_for(lambda: claim(self), timeout_s), "it never came true"

    def seqs(self, run_id: str, rank: int = 0) -> list[int]:
        """Numbers of the frames stored."""
        return sorted(self.frames.get((run_id, rank), {}))

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Answer a request to the API."""
        match = re.fullmatch(r"/api/v1/runs/(\w+)(?:/(\w+))?", path)
        assert match, path
        run_id, kind = match[1], match[2] or "declare"
        if self.faults.get(kind):
            return self.faults[kind].pop(0)
        return getattr(self, f"_{kind}")(run_id, body)

    def _declare(self, run_id: str, body: bytes) -> Answer:
        declaration = msgspec.json.decode(body, type=RunDeclaration)
        self.declarations.append(declaration)
        self.layouts.setdefault(run_id, set()).add(declaration.layout.hash)
        durable = {str(rank): seq for (run, rank), seq in self.durable.items() if run == run_id}
        return 200, msgspec.json.encode(RunReceipt(run_id, durable, f"/runs/{run_id}"))

    def _spec(self, run_id: str, body: bytes) -> Answer:
        self.revisions.append(msgspec.json.decode(body, type=SpecRevision))
        return 204, b""

    def _end(self, run_id: str, body: bytes) -> Answer:
        self.ends[run_id] = msgspec.json.decode(body, type=RunEnd)
        return 204, b""

    def _frames(self, run_id: str, body: bytes) -> Answer:
        try:
            batch = decode_batch(body)
        except WireError as error:
            return refusal(422, error.field, str(error))
        if run_id not in self.layouts:
            return refusal(404, "run_id")
        stored = self.frames.setdefault((run_id, batch.rank), {})
        for index, frame in enumerate(batch.frames):
            if frame.layout not in self.layouts[run_id]:
                return refusal(409, f"frames[{index}].layout")
            if self.accepts(frame):
                return refusal(422, f"frames[{index}].values", self.accepts(frame))
        duplicates = sum(frame.seq in stored for frame in batch.frames)
        self.order += [frame.seq for frame in batch.frames if frame.seq not in stored]
        stored |= {frame.seq: frame for frame in batch.frames}
        self.healths.append(batch.health)
        self._advance(run_id, batch.rank, batch.oldest)
        watermark = self.durable[run_id, batch.rank]
        receipt = FramesReceipt(watermark, len(batch.frames) - duplicates, duplicates)
        return 200, msgspec.json.encode(receipt)

    def _advance(self, run_id: str, rank: int, oldest: int) -> None:
        watermark = max(self.durable.get((run_id, rank), 0), oldest - 1)
        while self.commits and watermark + 1 in self.frames[run_id, rank]:
            watermark += 1
        self.durable[run_id, rank] = watermark


@contextmanager
def serving(store: Store, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run the server on a free port, or on one that was free before; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with store.changed:
                store.keys.append(self.headers["Authorization"])
                status, answer = store.answer(self.command, self.path, body)
                store.changed.notify_all()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST = _answer  # noqa: N815  the standard library's names

        def log_message(self, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", port), Handler)
    if tls is not None:
        # The handshake is the connection's thread's: one that fails must not stop the others.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.drop_connections()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: object) -> None:
        self._open: set[object] = set()
        super().__init__(*args)  # type: ignore[arg-type]

    def process_request(self, request: object, client_address: object) -> None:
        self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: object) -> None:
        self._open.discard(request)
        super().shutdown_request(request)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is not the server's failure."""

    def drop_connections(self) -> None:
        """Cut kept-alive connections, as the death of a real server does."""
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
