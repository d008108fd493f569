"""A little HTTP proxy, for which every name is this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LOCAL = "127.0.0.1"


@dataclass
class Traffic:
    """What went through a proxy.

    Attributes:
        requests: each request line without its version.
        credentials: each request's ``Proxy-Authorization``.
        answer: the status that it gives itself, to every request, or 0.
    """

    requests: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)
    answer: int = 0


@contextmanager
def proxying(traffic: Traffic) -> Iterator[str]:
    """Run the proxy on a free port; yields its host and port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _is_taken(self) -> bool:
            traffic.requests.append(f"{self.command} {self.path}")
            traffic.credentials.append(self.headers["Proxy-Authorization"])
            if traffic.answer:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self._reply(traffic.answer, b"<h1>an answer of the proxy's own</h1>")
            return not traffic.answer

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_CONNECT(self) -> None:
            if not self._is_taken():
                return
            with socket.create_connection((LOCAL, int(self.path.rpartition(":")[2]))) as server:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=pump, args=(server, self.connection))
                back.start()
                pump(self.connection, server)
                back.join()
            self.close_connection = True

        def _forward(self) -> None:
            if not self._is_taken():
                return
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {
                name: self.headers[name]
                for name in ("Content-Type", "Authorization", "Host")
                if name in self.headers
            }
            server = HTTPConnection(LOCAL, parts.port or 80)
            server.request(self.command, parts.path, body=body, headers=headers)
            with server.getresponse() as answer:
                self._reply(answer.status, answer.read())
            server.close()

        do_PUT = do_POST = _forward  # noqa: N815  the standard library's names

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((LOCAL, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{LOCAL}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way until that way is closed."""
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
