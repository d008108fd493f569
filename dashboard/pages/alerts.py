"""Alerts: what went wrong in every run, one card a fault, and what people do about it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboard import ids
from dashboard.api_client import ApiClient, ApiError
from dashboard.page_data import LiveEvent, PageData, read_event, read_page
from dashboard.pages.incidents import incident_cards, panel_cards
from dashboard.pages.states import failure

FILTERS = (
    ("Open", "open"),
    ("Acknowledged", "acknowledged"),
    ("Resolved", "resolved"),
    ("All", ""),
)


def layout() -> html.Div:
    """The page of every run's alerts."""
    options = [{"label": label, "value": value} for label, value in FILTERS]
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=PageData("alerts").store()),
            html.Div(
                [
                    html.H1("Alerts"),
                    dcc.RadioItems(
                        options, "open", id=ids.ALERTS_STATUS, className="segmented", inline=True
                    ),
                ],
                className="toolbar",
            ),
            html.Div(id=ids.ALERTS_LIST, className="alerts"),
        ],
        className="page page-alerts",
    )


def register(app: Dash, client: ApiClient) -> None:
    """The callbacks of the alerts page and of the run page's panel."""
    _register_lists(app, client)
    _register_actions(app, client)


def _register_lists(app: Dash, client: ApiClient) -> None:
    async def show_alerts(status: str, _: Any) -> list[Any]:
        try:
            return incident_cards(await client.incidents(status=status), with_run=True)
        except ApiError as error:
            return [failure(error)]

    app.callback(
        Output(ids.ALERTS_LIST, "children"),
        Input(ids.ALERTS_STATUS, "value"),
        Input(ids.LIVE_EVENT, "data"),
    )(show_alerts)

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


def _register_actions(app: Dash, client: ApiClient) -> None:
    changes = {
        "acknowledge": client.acknowledge,
        "resolve": client.resolve,
        "reopen": client.reopen,
    }

    async def act(clicks: list[int | None], event: Mapping[str, Any] | None) -> Any:
        # Dash also calls when buttons appear, with a click count of None for each.
        if not any(clicks) or not ctx.triggered_id:
            return no_update
        with suppress(ApiError):  # the list that is fetched next says what went wrong
            await changes[ctx.triggered_id["action"]](ctx.triggered_id["incident"])
        return LiveEvent("alert", read_event(event).count + 1).store()

    app.callback(
        Output(ids.LIVE_EVENT, "data", allow_duplicate=True),
        Input({"type": ids.INCIDENT_ACTION, "incident": ALL, "action": ALL}, "n_clicks"),
        State(ids.LIVE_EVENT, "data"),
        prevent_initial_call=True,
    )(act)
