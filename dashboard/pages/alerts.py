"""Alerts: what went wrong, where, how far from the prediction, and what to do about it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update

from dashboard import formats, ids
from dashboard.api_client import ApiClient, ApiError, Json
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
            dcc.Store(id=ids.PAGE_DATA, data={"page": "alerts"}),
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


def alert_cards(alerts: list[Json], *, with_run: bool) -> list[Any]:
    """One card an alert, or one line that says there is none."""
    if not alerts:
        return [html.P("No alerts.", className="quiet none", **{"data-testid": "no-alerts"})]
    return [alert_card(alert, with_run=with_run) for alert in alerts]


def panel_cards(alerts: list[Json]) -> list[Any]:
    """A run's alerts in the order in which they ask for a hand: open and critical ones first."""
    first = sorted(alerts, key=lambda one: (one["status"] != "open", one["severity"] != "critical"))
    return alert_cards(first, with_run=False)


def alert_card(alert: Json, *, with_run: bool) -> html.Article:
    """An alert in full: place, numbers, advice with its snippet, and the acknowledge button."""
    return html.Article(
        [_head(alert, with_run), html.P(alert["message"]), _numbers(alert), *_advice(alert)],
        className=f"alert card alert-{alert['severity']} alert-is-{alert['status']}",
        key=alert["id"],
        **{
            "data-testid": "alert",
            "data-alert": alert["id"],
            "data-alert-status": alert["status"],
        },
    )


def _head(alert: Json, with_run: bool) -> html.Header:
    href = f"/runs/{alert['run_id']}?step={alert['step']}"
    run = html.A(alert["run_name"], href=href, className="run-name") if with_run else None
    where = html.A(f"step {formats.count(alert['step'])}", href=href, className="quiet")
    return html.Header(
        [
            html.Span(alert["severity"], className=f"badge badge-{alert['severity']}"),
            html.H3(alert["title"]),
            html.Span([run, where, _acknowledge(alert)], className="alert-side"),
        ]
    )


def _acknowledge(alert: Json) -> Any:
    if alert["status"] != "open":
        return html.Span(alert["status"], className="quiet")
    button = html.Button(
        "Acknowledge", id={"type": ids.ALERT_ACKNOWLEDGE, "alert": alert["id"]}, className="button"
    )
    return html.Span(button, **{"data-testid": "alert-acknowledge"})


def _numbers(alert: Json) -> html.Dl:
    predicted = alert["predicted"]
    pairs = [
        ("where", formats.site(alert)),
        ("layers", formats.layers(alert)),
        ("measured", formats.measure(alert, "measured")),
        ("predicted", "" if predicted is None else formats.measure(alert, "predicted")),
        ("opened", formats.ago(alert["opened_at"])),
    ]
    return html.Dl([html.Div([html.Dt(word), html.Dd(value)]) for word, value in pairs if value])


def _advice(alert: Json) -> list[Any]:
    advice = alert.get("advice") or {}
    parts: list[Any] = []
    if advice.get("text"):
        parts.append(html.P([html.Strong("What to do. "), advice["text"]], className="advice"))
    scaling = advice.get("scaling")
    if scaling:
        beta, lam = (formats.figure_of(scaling[name]) for name in ("beta", "lam"))
        parts.append(html.P(f"λ = {lam},  β = {beta}", className="scaling"))
        parts.append(snippet(scaling["snippet"], **{"data-testid": "alert-snippet"}))
    return parts


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
        Input(ids.PULSE, "data"),
    )(show_alerts)

    async def show_run_alerts(pulse: Json | None, page: Json) -> Any:
        if not pulse or pulse.get("kind") != "alert" or page.get("page") != "run":
            return no_update
        try:
            return panel_cards(await client.alerts(run=page["runs"][0]["id"]))
        except ApiError:
            return no_update

    app.callback(
        Output(ids.RUN_ALERTS, "children"),
        Input(ids.PULSE, "data"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(show_run_alerts)


def _register_acknowledge(app: Dash, client: ApiClient) -> None:
    async def acknowledge(clicks: list[int | None], pulse: Json | None) -> Any:
        if not any(clicks) or not ctx.triggered_id:
            return no_update
        with suppress(ApiError):  # the list that is fetched next says what went wrong
            await client.acknowledge(ctx.triggered_id["alert"])
        return {"kind": "alert", "count": (pulse or {}).get("count", 0) + 1}

    app.callback(
        Output(ids.PULSE, "data", allow_duplicate=True),
        Input({"type": ids.ALERT_ACKNOWLEDGE, "alert": ALL}, "n_clicks"),
        State(ids.PULSE, "data"),
        prevent_initial_call=True,
    )(acknowledge)
