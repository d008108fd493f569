"""What answers at the server's address may be something else: a proxy's page, or no text at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainer_agent.delivery.http_transport import HttpTransport
from trainer_agent.delivery.transport import Refused, Unreachable
from wire import FrameBatch, Health

HEARTBEAT = FrameBatch(rank=0, oldest=1, frames=[], health=Health())
NOT_JSON = [b"<html>", b'{"\xff": 1}', b'{"durable": "\xed\xa0\x80"}', b"[" * 100_000, b""]


class Stranger(ThreadingHTTPServer):
    """Answers every request with the same status and bytes."""

    status = 200
    body = b""


class _Handler(BaseHTTPRequestHandler):
    server: Stranger

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _send(stranger: Stranger) -> None:
    transport = HttpTransport(f"http://127.0.0.1:{stranger.server_port}", None)
    try:
        transport.send("0" * 32, HEARTBEAT)
    finally:
        transport.close()


@pytest.mark.parametrize("body", NOT_JSON)
def test_answer_that_is_no_receipt_counts_as_unreachable(stranger: Stranger, body: bytes):
    stranger.body = body

    with pytest.raises(Unreachable, match="not evenkeel's"):
        _send(stranger)


@pytest.mark.parametrize("body", NOT_JSON)
def test_refusal_without_a_readable_reason_has_its_status(stranger: Stranger, body: bytes):
    stranger.status, stranger.body = 403, body

    with pytest.raises(Refused, match="the server answered 403"):
        _send(stranger)
