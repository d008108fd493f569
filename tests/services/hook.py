"""A receiver of webhooks in a thread of its own, for tests whose own loop is taken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook:
    """Answers each request with the next status, then with 200; keeps what it was sent."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.url = ""


@contextmanager
def hooking() -> Iterator[Hook]:
    """A receiver on loopback; its address holds what looks like a token."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            hook.bodies.append(json.loads(body))
            status = hook.statuses.pop(0) if hook.statuses else 200
            text = b"invalid_token" if status >= 400 else b"ok"
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the test says what was sent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        hook.url = f"http://127.0.0.1:{server.server_address[1]}/services/T0KEN-s3cr3t"
        yield hook
        server.shutdown()
        thread.join()
