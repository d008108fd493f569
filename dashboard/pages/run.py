"""The run page: depth profiles over their predictions, steps over depth, scalars, alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboard import ids, phrases, theme
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import Incident, Profile, Revision, RunDetail
from dashboard.display.numbers import format_count, format_loss
from dashboard.display.quantities import QUANTITIES, Quantity
from dashboard.display.reasons import why_missing
from dashboard.figures import ScalarRun, depth_chart, innovation_profile, scalar_chart
from dashboard.page_data import PageData, RunData, read_event, read_page
from dashboard.pages.charts import chart_card, graph, legend, missing_reasons, plot
from dashboard.pages.chips import status_chip, tag_chips
from dashboard.pages.details import details
from dashboard.pages.health import health_line
from dashboard.pages.heatmaps import heatmap, heatmap_switch, reference_switch
from dashboard.pages.incidents import panel_cards
from dashboard.pages.player import player
from dashboard.pages.profiles import depth_column, n_layers, stack_of
from dashboard.pages.series import pickers

CHARTS = dict(
    zip(
        (quantity.name for quantity in QUANTITIES),
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
    # Side by side: the page waits for the slowest answer and not for the sum.
    run, profile, revisions, incidents = await asyncio.gather(
        client.run(run_id),
        client.profile(run_id, step),
        client.predictions(run_id),
        client.incidents(run=run_id),
    )
    return layout(run, profile, revisions, incidents, tab=tab, requested_stack=stack)


def layout(
    run: RunDetail,
    profile: Profile | None,
    revisions: Sequence[Revision],
    incidents: Sequence[Incident],
    *,
    tab: str = "",
    requested_stack: str = "",
) -> html.Div:
    """The page of one run, showing the requested stack where there is one."""
    stack = stack_of(run, requested_stack)
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=page_data(run, stack).store()),
            dcc.Store(id=ids.RUN_INTERNALS_STEP),
            html.Div(header(run), id=ids.RUN_HEADER, className="run-header"),
            html.Div(
                [
                    _tab("Depth", "", tab),
                    _tab("Inside the blocks", "internals", tab),
                    _tab("Why", "why", tab),
                    _tab("All series", "series", tab),
                    _tab("Details", "details", tab),
                    _stacks(run, stack),
                    html.Div([legend(), _describe(run)], className="legends", **_panel("", tab)),
                ],
                className="tabs",
            ),
            html.Div(_depth(stack, profile, revisions), className="profiles", **_panel("", tab)),
            html.Div(_timeline(run, stack, incidents), className="timeline", **_panel("", tab)),
            html.Div(id=ids.RUN_INTERNALS, className="profiles blocks", **_panel("internals", tab)),
            html.Div(id=ids.RUN_CAUSES, className="profiles causes", **_panel("why", tab)),
            html.Div(pickers(run.layout), className="all-series", **_panel("series", tab)),
            html.Div(details(run), className="details", **_panel("details", tab)),
            player(),
        ],
        className="page page-run",
    )


def page_data(run: RunDetail, stack: str) -> PageData:
    """What the script needs to know of the run."""
    on_show = RunData(
        id=run.id,
        name=run.name,
        colour=theme.MEASURED,
        status=run.status,
        stack=stack,
        stacks=run.stacks,
        last_seen=run.last_seen,
        series=[series.key for series in run.layout],
    )
    return PageData(
        page="run",
        stack=stack,
        charts=CHARTS,
        scalars=ids.RUN_SCALARS,
        heatmaps=[ids.RUN_HEATMAP],
        runs=[on_show],
    )


def _panel(name: str, open_tab: str) -> dict[str, Any]:
    """Attributes of what a tab shows; every panel is in the page, and all but one hidden."""
    return {"data-tab": name, "hidden": name != open_tab}


def _tab(label: str, name: str, current: str) -> html.Button:
    selected = "true" if name == current else "false"
    return html.Button(
        label, className="view", type="button", **{"data-show": name, "aria-pressed": selected}
    )


def _stacks(run: RunDetail, chosen: str) -> Any:
    names = sorted(run.stacks)
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


def _describe(run: RunDetail) -> html.Button:
    return html.Button(
        DESCRIBE,
        id=ids.RUN_DESCRIBE,
        className="view small",
        type="button",
        title="Ask the job for its weights as they are now, and predict from them",
        hidden=run.status != "running",
    )


def header(run: RunDetail) -> list[Any]:
    """Name, status, architecture, the latest numbers, and the telemetry's own health."""
    facts = [run.architecture, phrases.parameters(run.n_params), run.family]
    return [
        html.Div(
            [
                html.Div(
                    [
                        html.H1(run.name),
                        status_chip(run.status, id=ids.RUN_STATUS),
                        html.Span(tag_chips(run.tags), className="tags"),
                    ],
                    className="title",
                ),
                html.Div(
                    [html.Span(run.project, className="project")]
                    + [html.Span(fact) for fact in facts if fact],
                    className="facts",
                ),
            ]
        ),
        html.Div(
            [
                _reading("step", html.Span(format_count(run.last_step), id=ids.RUN_LAST_STEP)),
                _reading("loss", html.Span(format_loss(run.last_loss), id=ids.RUN_LOSS)),
                _reading("last frame", html.Span(phrases.age(run.last_seen), id=ids.RUN_AGE)),
            ],
            className="readings",
        ),
        health_line(run),
    ]


def _reading(label: str, value: Any) -> html.Div:
    return html.Div([html.Span(label, className="label"), value], className="reading")


def _depth(stack: str, profile: Profile | None, revisions: Sequence[Revision]) -> list[Any]:
    return [_depth_card(quantity, stack, profile, revisions) for quantity in QUANTITIES]


def _depth_card(
    quantity: Quantity, stack: str, profile: Profile | None, revisions: Sequence[Revision]
) -> html.Section:
    column = depth_column(quantity, stack, profile, revisions)
    drawn = graph(depth_chart(quantity, [column]), CHARTS[quantity.name], "over-layers")
    at_init = revisions[0] if revisions else None
    # Always in the page: the script hides it when the first step arrives.
    waiting = html.Div("No steps yet", className="waiting", hidden=profile is not None)
    return chart_card(
        quantity.title,
        quantity.note,
        missing_reasons(quantity.name, [why_missing(at_init, column.predicted)]),
        plot(drawn, f"{quantity.title} over layers", waiting),
        side=html.Span(
            className="apart",
            title="The layer that is farthest from the prediction at initialisation",
            **{"data-apart": f"{quantity.name}:0"},
        ),
    )


def _timeline(run: RunDetail, stack: str, incidents: Sequence[Incident]) -> list[Any]:
    heat = heatmap(
        ids.RUN_HEATMAP,
        n_layers=n_layers(run, stack),
        last_step=run.last_step or 1,
        label="Measured against predicted, steps by layers",
    )
    alerts = [alert for incident in incidents for alert in incident.alerts]
    scalars = graph(scalar_chart([ScalarRun()], alerts), ids.RUN_SCALARS, "over-steps")
    lines = plot(scalars, "Loss and learning rate over steps")
    charts = html.Div(
        [
            chart_card("Loss and learning rate", "▲ marks alerts", lines),
            html.Div(
                [
                    chart_card(
                        "Measured against predicted",
                        "log₂ over steps",
                        heat,
                        html.Div(
                            id=ids.RUN_DEPARTURES, className="departures", **{"aria-live": "polite"}
                        ),
                        side=[reference_switch(), *heatmap_switch()],
                    ),
                    _innovations(n_layers(run, stack)),
                ],
                className="heat-and-profile",
            ),
        ],
        className="timeline-charts",
    )
    panel = html.Div(panel_cards(incidents), id=ids.RUN_ALERTS)
    return [charts, html.Aside([html.H2("Alerts"), panel], className="alerts panel")]


def _innovations(n_blocks: int) -> html.Section:
    drawn = graph(innovation_profile(n_blocks), ids.RUN_INNOVATIONS, "over-heat")
    note = "of the heatmap's quantity, at this step"
    return chart_card("Innovations", note, plot(drawn, "Innovations over blocks, with their bands"))


def register(app: Dash, client: ApiClient) -> None:
    """The header follows the run: its status and the health of its telemetry."""

    async def show_header(event: Mapping[str, Any] | None, page: Mapping[str, Any]) -> Any:
        run = read_page(page).run
        if run is None or read_event(event).kind != "health":
            return no_update
        try:
            return header(await client.run(run.id))
        except ApiError:
            return no_update  # the connection's banner says it, and what stands is still true

    app.callback(
        Output(ids.RUN_HEADER, "children"),
        Input(ids.LIVE_EVENT, "data"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(show_header)

    async def describe(clicks: int | None, page: Mapping[str, Any]) -> Any:
        run = read_page(page).run
        if not clicks or run is None:
            return no_update
        try:
            await client.describe(run.id)
        except ApiError as error:
            return error.message
        return DESCRIBE_ASKED

    app.callback(
        Output(ids.RUN_DESCRIBE, "children"),
        Input(ids.RUN_DESCRIBE, "n_clicks"),
        State(ids.PAGE_DATA, "data"),
        prevent_initial_call=True,
    )(describe)
