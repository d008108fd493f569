"""The dashboard on the server's FastAPI app: one process, one port."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dash
from dash import Dash, Input, Output, dcc, html
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from dashboard import ids, routing
from dashboard.api_client import ApiClient
from dashboard.delivery import PageAddresses, mount_files
from dashboard.display.quantities import VARIANCE
from dashboard.figures import DepthColumn, depth_chart
from dashboard.pages import alerts, causes, internals, run, runs, series

HERE = Path(__file__).parent
FORWARDED = ("authorization", "cookie")
MAIN = "/assets/js/main.js"


def mount(app: FastAPI, *, api_url: str | None = None) -> Dash:
    """Put the pages on `app`, at ``/``.

    They read the API of `app` itself, in-process, or the one at `api_url`; scripts in the browser
    ask ``/api/v1`` of the address the page came from, so a server elsewhere has to be put behind
    the same origin. Call it after every other route is in place: what no route knows below
    ``/api`` answers with a JSON 404.
    """
    _refuse_unknown_api_paths(app)
    # Before Dash adds routes of its own for the same paths: the first that matches answers.
    mount_files(app, HERE / "assets")
    pages = Dash(
        "dashboard",
        server=app,
        title="evenkeel",
        update_title="",  # else the browser's tab flickers with every callback
        assets_folder=str(HERE / "assets"),
        assets_path_ignore=["^js$", "^vendor$"],  # the index names their files itself
        index_string=index_html(),
        suppress_callback_exceptions=True,  # pages come and go, and their elements with them
        add_log_handler=False,  # the server sets up logging
    )
    client = ApiClient(app, url=api_url, credentials=_credentials)
    pages.layout = shell()
    depth_chart(VARIANCE, [DepthColumn()])  # plotly's first figure costs 0.2 s: not a visitor's
    for part in (routing, runs, run, internals, causes, series, alerts):
        part.register(pages, client)
    _start_scripts(pages)
    app.add_middleware(PageAddresses, pattern=routing.ADDRESSES)
    return pages


def index_html() -> str:
    """The page around the app: it paints the bar at the top before any script has run.

    An import map gives the modules of ``assets/js`` their fingerprinted addresses, and preloads
    fetch them side by side: a browser would else find them one import after the other.
    """
    page = (HERE / "static" / "index.html").read_text(encoding="utf-8")
    names = sorted(path.name for path in (HERE / "assets" / "js").glob("*.js"))
    modules = {f"/assets/js/{name}": fingerprinted(f"js/{name}") for name in names}
    preloads = [f'<link rel="modulepreload" href="{address}">' for address in modules.values()]
    fields = {
        "@PLOTLY@": fingerprinted("vendor/plotly-basic.min.js"),
        "@ICON@": fingerprinted("icon.svg"),
        "@IMPORTS@": json.dumps({"imports": modules}),
        "@PRELOADS@": "\n".join(preloads),
        "@MAIN@": modules[MAIN],
    }
    for field, text in fields.items():
        page = page.replace(field, text)
    return page


def fingerprinted(name: str) -> str:
    """Address of a file of `assets/` that changes when the file does."""
    content = (HERE / "assets" / name).read_bytes()
    return f"/assets/{name}?m={hashlib.blake2b(content, digest_size=6).hexdigest()}"


def shell() -> html.Div:
    """What stays while pages change: the address, the latest live event, the page's element."""
    return html.Div(
        [
            dcc.Location(id=ids.URL, refresh=False),
            dcc.Store(id=ids.LIVE_EVENT),
            dcc.Store(id=ids.PAGE_STARTED),
            html.Main(id=ids.PAGE),
        ]
    )


def _start_scripts(pages: Dash) -> None:
    # An import waits for modules that are still on their way; a global might not be set yet.
    pages.clientside_callback(
        f'async (data) => (await import("{MAIN}")).start(data)',
        Output(ids.PAGE_STARTED, "data"),
        Input(ids.PAGE_DATA, "data"),
    )


def _credentials() -> Mapping[str, str]:
    """The visitor's key or login, so that a page shows what its reader may see."""
    sent = dash.callback_context.headers
    return {name: sent[name] for name in FORWARDED if name in sent}


def _refuse_unknown_api_paths(app: FastAPI) -> None:
    # Dash's catch-all would answer a script's misspelt path with a page and status 200.
    async def unknown(path: str) -> JSONResponse:
        error: dict[str, Any] = {
            "code": "not_found",
            "field": "path",
            "message": f"there is nothing at /api/{path}",
            "fix": "see /api/v1/openapi.json for what there is",
        }
        return JSONResponse({"error": error}, status_code=404)

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app.add_api_route("/api/{path:path}", unknown, methods=methods, include_in_schema=False)
