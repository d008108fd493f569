"""Alerts: what went wrong, where, how far from the prediction, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboard import ids, phrases
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import Advice, Alert, Scaling
from dashboard.display.numbers import format_count, format_number
from dashboard.page_data import LiveEvent, PageData, read_event, read_page
from dashboard.pages.chips import snippet
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


def alert_cards(alerts: Sequence[Alert], *, with_run: bool) -> list[Any]:
    """One card for each alert, or one line that says there is none."""
    if not alerts:
        return [html.P("No alerts.", className="quiet none", **{"data-testid": "no-alerts"})]
    return [alert_card(alert, with_run=with_run) for alert in alerts]


def panel_cards(alerts: Sequence[Alert]) -> list[Any]:
    """A run's alerts by urgency: open ones first, of these critical ones."""
    by_urgency = sorted(
        alerts, key=lambda alert: (alert.status != "open", alert.severity != "critical")
    )
    return alert_cards(by_urgency, with_run=False)


def alert_card(alert: Alert, *, with_run: bool) -> html.Article:
    """An alert in full: place, numbers, advice with its snippet, and the acknowledge button."""
    return html.Article(
        [_head(alert, with_run), html.P(alert.message), _numbers(alert), *_advice(alert.advice)],
        className=f"alert card alert-{alert.severity} alert-is-{alert.status}",
        key=alert.id,
        **{
            "data-testid": "alert",
            "data-alert": alert.id,
            "data-alert-status": alert.status,
        },
    )


def _head(alert: Alert, with_run: bool) -> html.Header:
    href = f"/runs/{alert.run_id}?step={alert.step}"
    run = html.A(alert.run_name, href=href, className="run-name") if with_run else None
    where = html.A(f"step {format_count(alert.step)}", href=href, className="quiet")
    return html.Header(
        [
            html.Span(alert.severity, className=f"badge badge-{alert.severity}"),
            html.H3(alert.title),
            html.Span([run, where, _acknowledge(alert)], className="alert-side"),
        ]
    )


def _acknowledge(alert: Alert) -> Any:
    if alert.status != "open":
        return html.Span(alert.status, className="quiet")
    button = html.Button(
        "Acknowledge", id={"type": ids.ALERT_ACKNOWLEDGE, "alert": alert.id}, className="button"
    )
    return html.Span(button, **{"data-testid": "alert-acknowledge"})


def _numbers(alert: Alert) -> html.Dl:
    predicted = "" if alert.predicted is None else phrases.measure(alert, alert.predicted)
    pairs = [
        ("where", phrases.site(alert)),
        ("layers", phrases.layers(alert)),
        ("measured", phrases.measure(alert, alert.measured)),
        ("predicted", predicted),
        ("opened", phrases.age(alert.opened_at)),
    ]
    return html.Dl([html.Div([html.Dt(label), html.Dd(value)]) for label, value in pairs if value])


def _advice(advice: Advice) -> list[Any]:
    parts: list[Any] = []
    if advice.text:
        parts.append(html.P([html.Strong("What to do. "), advice.text], className="advice"))
    return parts + (_scaling(advice.scaling) if advice.scaling else [])


def _scaling(scaling: Scaling) -> list[Any]:
    lam, beta = format_number(scaling.lam), format_number(scaling.beta)
    return [
        html.P(f"λ = {lam},  β = {beta}", className="scaling"),
        snippet(scaling.snippet, **{"data-testid": "alert-snippet"}),
    ]


def register(app: Dash, client: ApiClient) -> None:
    """The callbacks of the alerts page and of the run page's panel."""
    _register_lists(app, client)
    _register_acknowledge(app, client)


def _register_lists(app: Dash, client: ApiClient) -> None:
    async def show_alerts(status: str, _: Any) -> list[Any]:
        try:
            return alert_cards(await client.alerts(status=status), with_run=True)
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
            return panel_cards(await client.alerts(run=run.id))
        except ApiError:
            return no_update  # the connection's banner says it

    app.callback(
        Output(ids.RUN_ALERTS, "children"),
        Input(ids.LIVE_EVENT, "data"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(show_run_alerts)


def _register_acknowledge(app: Dash, client: ApiClient) -> None:
    async def acknowledge(clicks: list[int | None], event: Mapping[str, Any] | None) -> Any:
        # Dash also calls when buttons appear, with a click count of None for each.
        if not any(clicks) or not ctx.triggered_id:
            return no_update
        with suppress(ApiError):  # the list that is fetched next says what went wrong
            await client.acknowledge(ctx.triggered_id["alert"])
        return LiveEvent("alert", read_event(event).count + 1).store()

    app.callback(
        Output(ids.LIVE_EVENT, "data", allow_duplicate=True),
        Input({"type": ids.ALERT_ACKNOWLEDGE, "alert": ALL}, "n_clicks"),
        State(ids.LIVE_EVENT, "data"),
        prevent_initial_call=True,
    )(acknowledge)
