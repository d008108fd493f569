"""Alerts: what went wrong in every run, one card a fault, and what people do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboard import ids
from dashboard.api_client import ApiClient, ApiError
from dashboard.page_data import PageData, read_event, read_page
from dashboard.pages.incidents import incident_cards, panel_cards
from dashboard.pages.states import failure

PAGE_SIZE = 10  # cards: Dash takes the square of them, 0.4 s for 10 and 40 s for 100
OPEN = "open"
FILTERS = (
    ("Open", OPEN),
    ("Acknowledged", "acknowledged"),
    ("Resolved", "resolved"),
    ("All", "all"),
)


def layout(status: str = OPEN) -> html.Div:
    """The page of every run's alerts; a status that is none shows the open ones."""
    status = status if status in dict(FILTERS).values() else OPEN
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=PageData("alerts").store()),
            dcc.Store(id=ids.ALERTS_STATUS, data=status),
            dcc.Store(id=ids.ALERTS_SHOWN, data=0),
            html.Div(
                [
                    html.H1("Alerts"),
                    html.Div(
                        [_filter(label, value, status) for label, value in FILTERS],
                        className="segmented",
                        role="group",
                        **{"aria-label": "Which alerts"},
                    ),
                ],
                className="toolbar",
            ),
            html.Div(id=ids.ALERTS_LIST, className="alerts"),
        ],
        className="page page-alerts",
    )


def _filter(label: str, value: str, current: str) -> html.Button:
    pressed = "true" if value == current else "false"
    return html.Button(
        label, type="button", **{"data-alerts-status": value, "aria-pressed": pressed}
    )


def register(app: Dash, client: ApiClient) -> None:
    """The callbacks of the alerts page and of the run page's panel."""

    async def show_alerts(status: str, skipped: int, _: Any) -> list[Any]:
        try:
            # An incident beyond those shown tells that there are older ones.
            found = await client.incidents(
                status="" if status == "all" else status, limit=skipped + PAGE_SIZE + 1
            )
        except ApiError as error:
            return [failure(error)]
        shown = found[skipped : skipped + PAGE_SIZE]
        cards = incident_cards(shown, with_run=True, heading=html.H2)
        return [*cards, _turning(skipped, is_more=len(found) > skipped + PAGE_SIZE)]

    app.callback(
        Output(ids.ALERTS_LIST, "children"),
        Input(ids.ALERTS_STATUS, "data"),
        Input(ids.ALERTS_SHOWN, "data"),
        Input(ids.LIVE_EVENT, "data"),
    )(show_alerts)
    app.callback(
        Output(ids.ALERTS_SHOWN, "data"),
        Input(ids.ALERTS_NEWER, "n_clicks"),
        Input(ids.ALERTS_MORE, "n_clicks"),
        State(ids.ALERTS_SHOWN, "data"),
        prevent_initial_call=True,
    )(turn)

    async def show_run_alerts(event: Mapping[str, Any] | None, page: Mapping[str, Any]) -> Any:
        run = read_page(page).run
        if run is None or read_event(event).kind != "alert":
            return no_update
        try:
            return panel_cards(await client.incidents(run=run.id))
        except ApiError:
            return no_update  # the connection's banner says it

    app.callback(
        Output(ids.RUN_ALERTS, "children"),
        Input(ids.LIVE_EVENT, "data"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(show_run_alerts)


def turn(newer: int | None, older: int | None, skipped: int) -> Any:
    """How many cards are passed over after a click."""
    # Dash calls once more when the buttons appear, without a click.
    if not newer and not older:
        return no_update
    return skipped + PAGE_SIZE if older else max(0, skipped - PAGE_SIZE)


def _turning(skipped: int, *, is_more: bool) -> html.Div:
    # Keyed by the page, so that the buttons of each count their own clicks.
    buttons = [
        html.Button("Newer alerts", id=ids.ALERTS_NEWER, className="button", hidden=not skipped),
        html.Button("Older alerts", id=ids.ALERTS_MORE, className="button", hidden=not is_more),
    ]
    return html.Div(buttons, className="turning", key=f"turning-{skipped}")
