"""From an address to a page."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

from dash import Dash, Input, Output, State

from dashboard import ids
from dashboard.api_client import ApiClient, ApiError
from dashboard.pages import alerts, compare, run, runs, settings
from dashboard.pages.states import failure, not_found

# No run's id has a dot; the names of files do, and those are not pages.
ADDRESSES = re.compile(r"/(runs(/[^/.]+)?|compare|alerts|settings)/?")


def register(app: Dash, client: ApiClient) -> None:
    """The callback that shows the page of the browser's address."""

    async def show_page(path: str | None, search: str | None) -> Any:
        try:
            return await page_of(client, path or "/", search or "")
        except ApiError as error:
            return failure(error)

    app.callback(
        Output(ids.PAGE, "children"), Input(ids.URL, "pathname"), State(ids.URL, "search")
    )(show_page)


async def page_of(client: ApiClient, path: str, search: str) -> Any:
    """The page at `path` with its query, e.g. ``?step=100&tab=internals``."""
    query = {name: values[-1] for name, values in parse_qs(search.lstrip("?")).items()}
    step = int(query["step"]) if query.get("step", "").isdigit() else None
    match path.strip("/").split("/"):
        case [""] | ["runs"]:
            return runs.layout()
        case ["runs", run_id]:
            return await run.load(
                client, run_id, step, tab=query.get("tab", ""), stack=query.get("stack", "")
            )
        case ["compare"]:
            run_ids = [run_id for run_id in query.get("runs", "").split(",") if run_id]
            # Each run once, in the order of the address: the first is the reference.
            return await compare.load(client, list(dict.fromkeys(run_ids)), step)
        case ["alerts"]:
            return alerts.layout(query.get("status", alerts.OPEN))
        case ["settings"]:
            return settings.layout()
    return not_found(path)
