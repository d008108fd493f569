"""How scripts, styles and fonts reach the browser: compressed once, then kept by it for good."""

from __future__ import annotations

import gzip
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = ("/_dash-component-suites/", "/assets/")
FOREVER = "public, max-age=31536000, immutable"
COMPRESSIBLE = ("text/", "application/javascript", "application/json", "image/svg")
MIN_SIZE = 512

Stored = tuple[int, list[tuple[bytes, bytes]], bytes]


class PageAddresses:
    """Middleware that answers every page's address with the index; the script picks the page.

    Dash has a catch-all route of its own, but adds it only when a server's lifespan starts, and
    to whichever Dash app of the process was made last.
    """

    def __init__(self, app: ASGIApp, *, pattern: re.Pattern[str]) -> None:
        """Wrap `app`; `pattern` matches the pages' paths in full."""
        self.app = app
        self.pattern = pattern

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, a page's as one for ``/``."""
        if scope["type"] == "http" and self.pattern.fullmatch(scope["path"]):
            scope = {**scope, "path": "/", "raw_path": b"/"}
        await self.app(scope, receive, send)


class StaticDelivery:
    """Middleware over Dash's static routes.

    A script is compressed on its first request and kept in memory; addresses that carry a
    fingerprint (a version in the path, or ``?m=``) are given to the browser to keep.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self.app = app
        self.stored: dict[tuple[str, bytes, bool], Stored] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from memory where the address was seen before."""
        if not _is_static(scope):
            await self.app(scope, receive, send)
            return
        zipped = "gzip" in Headers(scope=scope).get("accept-encoding", "")
        key = (scope["path"], scope["query_string"], zipped)
        if not is_fingerprinted(*key[:2]):
            await self.app(scope, receive, send)
            return
        if key not in self.stored:
            answer = await _collect(self.app, scope, receive)
            if answer[0] != 200:
                await _answer(send, answer)
                return
            self.stored[key] = _prepared(answer, zipped=zipped)
        await _answer(send, self.stored[key])


def _is_static(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    return str(scope["path"]).startswith(STATIC)


def is_fingerprinted(path: str, query: bytes) -> bool:
    """Whether the address changes when the content does."""
    return query.startswith(b"m=") or ".v" in path.rpartition("/")[2]


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> Stored:
    """The whole answer, as if the browser asked for it uncompressed and for the first time."""
    plain = [(name, value) for name, value in scope["headers"] if not _is_conditional(name)]
    started: dict[str, Any] = {}
    chunks: list[bytes] = []

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    await app({**scope, "headers": plain}, receive, keep)
    return started["status"], list(started["headers"]), b"".join(chunks)


def _is_conditional(name: bytes) -> bool:
    return name in (b"accept-encoding", b"range") or name.startswith(b"if-")


def _prepared(answer: Stored, *, zipped: bool) -> Stored:
    status, headers, body = answer
    kind = Headers(raw=headers).get("content-type", "")
    kept = [(n, v) for n, v in headers if n not in (b"content-length", b"cache-control")]
    kept += [(b"cache-control", FOREVER.encode()), (b"vary", b"Accept-Encoding")]
    if zipped and len(body) >= MIN_SIZE and kind.startswith(COMPRESSIBLE):
        body = gzip.compress(body, compresslevel=9, mtime=0)
        kept.append((b"content-encoding", b"gzip"))
    return status, [*kept, (b"content-length", str(len(body)).encode())], body


async def _answer(send: Send, stored: Stored) -> None:
    status, headers, body = stored
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
