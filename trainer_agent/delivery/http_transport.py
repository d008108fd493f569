"""The transport to a real server: HTTP/1.1 over one kept-alive connection."""

from __future__ import annotations

import http.client
import os
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from trainer_agent.delivery.proxy import Proxy
from trainer_agent.delivery.route import Route
from trainer_agent.delivery.transport import Refused, Unreachable
from wire import (
    MEDIA_TYPE,
    FrameBatch,
    FramesReceipt,
    JsonDecoder,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    SpecRevision,
    WireError,
    encode_batch,
)

TIMEOUT_S = 10.0
# A kept-alive connection that the server closed in the meantime shows itself in these ways.
_Answer = TypeVar("_Answer")
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class HttpTransport:
    """Speaks docs/api.md to one server. Used by one thread at a time."""

    def __init__(self, server: str, key: str | None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._server = server
        self._base = urlsplit(server).path.rstrip("/") + "/api/v1"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s
        self._route: Route | None = None
        self._connection: http.client.HTTPConnection | None = None

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        """``PUT /runs/{run_id}``."""
        answer = self._send_json("PUT", f"/runs/{run_id}", declaration)
        return _read(answer, RunReceipt)

    def describe(self, run_id: str, revision: SpecRevision) -> None:
        """``PUT /runs/{run_id}/spec``."""
        self._send_json("PUT", f"/runs/{run_id}/spec", revision)

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        """``POST /runs/{run_id}/frames``."""
        answer = self._request("POST", f"/runs/{run_id}/frames", encode_batch(batch), MEDIA_TYPE)
        return _read(answer, FramesReceipt)

    def end(self, run_id: str, end: RunEnd) -> None:
        """``POST /runs/{run_id}/end``."""
        self._send_json("POST", f"/runs/{run_id}/end", end)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send_json(self, method: str, path: str, message: msgspec.Struct) -> bytes:
        return self._request(method, path, msgspec.json.encode(message), "application/json")

    def _request(self, method: str, path: str, body: bytes, media_type: str) -> bytes:
        headers = {**self._headers, "Content-Type": media_type}
        reused = self._connection is not None
        try:
            try:
                status, answer, retry_after = self._exchange(method, path, body, headers)
            except _STALE:
                self.close()
                if not reused:
                    raise
                status, answer, retry_after = self._exchange(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        return _require_success(status, answer, retry_after, self._find_route().proxy)

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, str | None]:
        route = self._find_route()
        if self._connection is None:
            self._connection = route.connect()
        target = route.target(self._base + path)
        self._connection.request(method, target, body=body, headers=headers | route.headers)
        response = self._connection.getresponse()
        return response.status, response.read(), response.headers.get("Retry-After")

    def _find_route(self) -> Route:
        # At the first request, not in the constructor: a wrong setting is then tried again and
        # logged as any server that cannot be reached.
        if self._route is None:
            self._route = Route(self._server, os.environ, timeout_s=self._timeout_s)
        return self._route


def _require_success(
    status: int, answer: bytes, retry_after: str | None, proxy: Proxy | None
) -> bytes:
    if status < 300:
        return answer
    error = _error_of(answer)
    if proxy is not None and not error and 400 <= status < 500:
        # The proxy's own page. As the server's refusal it would cost the frames.
        raise Unreachable(proxy.refusal(status, f"the server ({status})"))
    if 400 <= status < 500 and status not in (408, 425, 429):
        raise Refused(
            status,
            field=str(error.get("field") or ""),
            message=str(error.get("message") or f"the server answered {status}"),
            fix=str(error.get("fix") or "look at the server's log"),
        )
    wish = float(retry_after) if retry_after and retry_after.isdigit() else None
    origin = "the server" if proxy is None else f"the server or the proxy {proxy}"
    raise Unreachable(f"{origin} answered {status}", retry_after_s=wish)


def _error_of(answer: bytes) -> dict[str, Any]:
    try:
        body = JsonDecoder(dict[str, Any]).decode(answer)
    except WireError:
        return {}
    error = body.get("error")
    return error if isinstance(error, dict) else {}


def _read(answer: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return JsonDecoder(kind).decode(answer)
    except WireError as error:
        raise Unreachable(f"an answer that is not evenkeel's: {error}") from error
