"""How scripts, styles and fonts reach the browser: compressed once, cached by it for good."""

from __future__ import annotations

import gzip
import re
from functools import lru_cache
from pathlib import Path

import dash
from dash.fingerprint import check_fingerprint
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

ASSETS = "/assets"
COMPONENTS = "/_dash-component-suites/dash"
IMMUTABLE = "public, max-age=31536000, immutable"
COMPRESSIBLE = ("text/", "application/javascript", "application/json", "image/svg")
MIN_BYTES = 512  # below it the gzip header outweighs what compression saves
MAX_FILES = 256  # a page needs about 40


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
        # The login check lies further in, and treats every page like the index.
        if scope["type"] == "http" and self.pattern.fullmatch(scope["path"]):
            scope = {**scope, "path": "/", "raw_path": b"/"}
        await self.app(scope, receive, send)


def mount_files(app: FastAPI, assets: Path) -> None:
    """Serve `assets` and the scripts of Dash's components, in place of the routes Dash adds."""
    app.mount(ASSETS, AssetFiles(directory=assets))
    app.mount(COMPONENTS, ComponentFiles(directory=Path(dash.__file__).parent))


class CompressedFiles(StaticFiles):
    """Static files; text is compressed at its first request.

    The compressed copy is stored under the file's real path, never under the request's address:
    any query string and many spellings of a path lead to the same file.
    """

    def is_fingerprinted(self, scope: Scope) -> bool:
        """Whether the request's address changes when the file's content does."""
        raise NotImplementedError

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at `path`, gzipped for a client that accepts it.

        Raises:
            HTTPException: 404 where there is no such file, 405 for other methods than GET and HEAD.
        """
        response = await super().get_response(path, scope)
        if self.is_fingerprinted(scope):
            response.headers["cache-control"] = IMMUTABLE
        if isinstance(response, FileResponse) and _is_compressible(response):
            response.headers["vary"] = "Accept-Encoding"
            if "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                return await _compressed(response)
        return response


class AssetFiles(CompressedFiles):
    """The dashboard's own files, whose addresses carry a version as ``?m=``."""

    def is_fingerprinted(self, scope: Scope) -> bool:
        """Whether there is a version; which one does not matter, as there is one file."""
        return bool(scope["query_string"].startswith(b"m="))


class ComponentFiles(CompressedFiles):
    """Scripts of Dash's components, whose addresses carry a version in the file's name."""

    def is_fingerprinted(self, scope: Scope) -> bool:
        """Whether the name has a version in it."""
        return bool(check_fingerprint(scope["path"])[1])

    def get_path(self, scope: Scope) -> str:
        """The file's name without the version; Dash's Python files have no address."""
        path = str(check_fingerprint(super().get_path(scope))[0])
        return path if path.endswith((".js", ".js.map", ".css")) else ""


def _is_compressible(response: FileResponse) -> bool:
    is_text = response.headers.get("content-type", "").startswith(COMPRESSIBLE)
    return is_text and int(response.headers["content-length"]) >= MIN_BYTES


async def _compressed(response: FileResponse) -> Response:
    # A new version of the file has another ETag, so its compressed copy is made anew.
    etag = response.headers["etag"]
    body = await run_in_threadpool(_gzipped, str(response.path), etag)
    # The two forms mean the same and differ in bytes, which is what a weak ETag says.
    headers = {**response.headers, "content-encoding": "gzip", "etag": f"W/{etag}"}
    for uncompressed in ("content-length", "accept-ranges"):
        del headers[uncompressed]
    return Response(body, headers=headers)


@lru_cache(maxsize=MAX_FILES)
def _gzipped(path: str, etag: str) -> bytes:  # noqa: ARG001  the etag is part of the key
    return gzip.compress(Path(path).read_bytes(), compresslevel=9, mtime=0)
