"""The run page: depth profiles over their predictions, steps over depth, scalars, alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboard import formats, ids, theme
from dashboard.api_client import ApiClient, ApiError, Json
from dashboard.figures import ScalarRun, depth_chart, scalar_chart
from dashboard.figures.quantities import QUANTITIES, Quantity
from dashboard.pages.alerts import panel_cards
from dashboard.pages.charts import chart_card, graph, legend, plot, why
from dashboard.pages.chips import status_chip, tag_chips
from dashboard.pages.details import details
from dashboard.pages.health import health_line
from dashboard.pages.heatmaps import heatmap, heatmap_switch
from dashboard.pages.player import player
from dashboard.pages.profiles import depth_column, stack_of, why_missing
from dashboard.pages.series import pickers

CHARTS = dict(
    zip(
        (one.name for one in QUANTITIES),
        (ids.RUN_VARIANCE, ids.RUN_CORRELATION, ids.RUN_GRADIENT),
        strict=True,
    )
)

DESCRIBE = "Describe again"
DESCRIBE_ASKED = "Description asked for"


async def load(
    client: ApiClient, run_id: str, step: int | None, *, tab: str = "", stack: str = ""
) -> html.Div:
    """Fetch what the page shows first, then draw it.

    Raises:
        ApiError: when there is no such run or no answer.
    """
    run, profile, revisions, alerts = await asyncio.gather(
        client.run(run_id),
        client.profile(run_id, step),
        client.predictions(run_id),
        client.alerts(run=run_id),
    )
    return layout(run, profile, revisions, alerts, tab=tab, asked=stack)


def layout(
    run: Json,
    profile: Json | None,
    revisions: Sequence[Json],
    alerts: Sequence[Json],
    *,
    tab: str = "",
    asked: str = "",
) -> html.Div:
    """The whole page for one run, showing the stack `asked` for where there is one."""
    stack = stack_of(run, asked)
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=page_data(run, stack)),
            dcc.Store(id=ids.RUN_INTERNALS_STEP),
            html.Div(header(run), id=ids.RUN_HEADER, className="run-header"),
            html.Div(
                [
                    _tab("Depth", "", tab),
                    _tab("Inside the blocks", "internals", tab),
                    _tab("All series", "series", tab),
                    _tab("Details", "details", tab),
                    _stacks(run, stack),
                    html.Div([legend(), _describe(run)], className="legends", **_shown("", tab)),
                ],
                className="tabs",
            ),
            html.Div(_depth(stack, profile, revisions), className="profiles", **_shown("", tab)),
            html.Div(_timeline(run, stack, alerts), className="timeline", **_shown("", tab)),
            html.Div(id=ids.RUN_INTERNALS, className="profiles blocks", **_shown("internals", tab)),
            html.Div(pickers(run["layout"]), className="all-series", **_shown("series", tab)),
            html.Div(details(run), className="details", **_shown("details", tab)),
            player(),
        ],
        className="page page-run",
    )


def page_data(run: Json, stack: str) -> Json:
    """What the live script needs to know of the run."""
    return {
        "page": "run",
        "stack": stack,
        "charts": CHARTS,
        "scalars": ids.RUN_SCALARS,
        "heatmaps": [ids.RUN_HEATMAP],
        "runs": [
            {
                "id": run["id"],
                "name": run["name"],
                "colour": theme.MEASURED,
                "status": run["status"],
                "last_seen": run["last_seen"],
                "stack": stack,
                "stacks": run["stacks"],
                "series": [one["key"] for one in run["layout"]],
            }
        ],
    }


def _shown(own: str, tab: str) -> Json:
    return {"data-tab": own, "hidden": own != tab}


def _tab(label: str, name: str, current: str) -> html.Button:
    selected = "true" if name == current else "false"
    return html.Button(
        label, className="view", type="button", **{"data-show": name, "aria-pressed": selected}
    )


def _stacks(run: Json, chosen: str) -> Any:
    names = sorted(run["stacks"])
    if len(names) < 2:
        return None
    buttons = [
        html.Button(
            name,
            className="view",
            type="button",
            **{"data-stack": name, "aria-pressed": "true" if name == chosen else "false"},
        )
        for name in names
    ]
    return html.Span(buttons, className="stacks")


def _describe(run: Json) -> html.Button:
    return html.Button(
        DESCRIBE,
        id=ids.RUN_DESCRIBE,
        className="view small",
        type="button",
        title="Ask the job for its weights as they are now, and predict from them",
        hidden=run["status"] != "running",
    )


def header(run: Json) -> list[Any]:
    """Name, status, architecture, the latest numbers, and the telemetry's own health."""
    facts = [run["architecture"], formats.parameters(run["n_params"]), run["family"]]
    return [
        html.Div(
            [
                html.Div(
                    [
                        html.H1(run["name"]),
                        status_chip(run["status"], id=ids.RUN_STATUS),
                        html.Span(tag_chips(run["tags"]), className="tags"),
                    ],
                    className="title",
                ),
                html.Div(
                    [html.Span(run["project"], className="project")]
                    + [html.Span(fact) for fact in facts if fact],
                    className="facts",
                ),
            ]
        ),
        html.Div(
            [
                _reading("step", html.Span(formats.count(run["last_step"]), id=ids.RUN_LAST_STEP)),
                _reading("loss", html.Span(formats.loss(run["last_loss"]), id=ids.RUN_LOSS)),
                _reading("last frame", html.Span(formats.ago(run["last_seen"]), id=ids.RUN_AGE)),
            ],
            className="readings",
        ),
        health_line(run),
    ]


def _reading(label: str, value: Any) -> html.Div:
    return html.Div([html.Span(label, className="label"), value], className="reading")


def _depth(stack: str, profile: Json | None, revisions: Sequence[Json]) -> list[Any]:
    return [_depth_card(one, stack, profile, revisions) for one in QUANTITIES]


def _depth_card(
    quantity: Quantity, stack: str, profile: Json | None, revisions: Sequence[Json]
) -> html.Section:
    column = depth_column(quantity, stack, profile, revisions)
    drawn = graph(depth_chart(quantity, [column]), CHARTS[quantity.name], "over-layers")
    waiting = html.Div("No steps yet", className="waiting", hidden=profile is not None)
    return chart_card(
        quantity.title,
        quantity.note,
        why(quantity.name, [why_missing(revisions, column.predicted)]),
        plot(drawn, f"{quantity.title} over layers", waiting),
    )


def _timeline(run: Json, stack: str, alerts: Sequence[Json]) -> list[Any]:
    sizes = run["stacks"].get(stack, {})
    heat = heatmap(
        ids.RUN_HEATMAP,
        n_layers=sizes.get("n_layers", 1),
        last_step=run["last_step"] or 1,
        label="Measured against predicted, steps by layers",
    )
    scalars = graph(scalar_chart([ScalarRun()], alerts), ids.RUN_SCALARS, "over-steps")
    lines = plot(scalars, "Loss and learning rate over steps")
    charts = html.Div(
        [
            chart_card("Loss and learning rate", "▲ marks alerts", lines),
            chart_card("Measured against predicted", "over steps", heat, side=heatmap_switch()),
        ],
        className="timeline-charts",
    )
    panel = html.Div(panel_cards(list(alerts)), id=ids.RUN_ALERTS)
    return [charts, html.Aside([html.H2("Alerts"), panel], className="alerts panel")]


def register(app: Dash, client: ApiClient) -> None:
    """The header follows the run: its status and the health of its telemetry."""

    async def show_header(pulse: Json | None, page: Json) -> Any:
        if not pulse or pulse.get("kind") != "health" or page.get("page") != "run":
            return no_update
        try:
            return header(await client.run(page["runs"][0]["id"]))
        except ApiError:
            return no_update

    app.callback(
        Output(ids.RUN_HEADER, "children"),
        Input(ids.PULSE, "data"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(show_header)

    async def describe(clicks: int | None, page: Json) -> Any:
        if not clicks:
            return no_update
        try:
            await client.describe(page["runs"][0]["id"])
        except ApiError as error:
            return error.message
        return DESCRIBE_ASKED

    app.callback(
        Output(ids.RUN_DESCRIBE, "children"),
        Input(ids.RUN_DESCRIBE, "n_clicks"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(describe)
