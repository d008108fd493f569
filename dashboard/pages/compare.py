"""Two to four runs side by side: the same axes, the same step, and their difference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dash import dcc, html

from dashboard import ids, theme
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import Profile, Revision, RunDetail
from dashboard.display.quantities import QUANTITIES, Quantity
from dashboard.display.reasons import why_missing
from dashboard.figures import ScalarRun, depth_chart, scalar_chart
from dashboard.page_data import PageData, RunData
from dashboard.pages.charts import chart_card, graph, legend, missing_reasons, plot
from dashboard.pages.chips import status_chip
from dashboard.pages.heatmaps import heatmap, heatmap_switch
from dashboard.pages.player import player
from dashboard.pages.profiles import depth_column, n_layers, stack_of
from dashboard.pages.states import failure

CHARTS = dict(
    zip(
        (quantity.name for quantity in QUANTITIES),
        (ids.COMPARE_VARIANCE, ids.COMPARE_CORRELATION, ids.COMPARE_GRADIENT),
        strict=True,
    )
)


async def load(client: ApiClient, run_ids: Sequence[str], step: int | None) -> html.Div:
    """Fetch the runs and lay them side by side.

    Raises:
        ApiError: when one of them does not exist or there is no answer.
    """
    if not 2 <= len(run_ids) <= theme.MAX_COMPARED:
        return failure(_wrong_number(len(run_ids)))
    # The runs first: for one that does not exist nothing else is asked.
    runs = await asyncio.gather(*(client.run(run_id) for run_id in run_ids))
    profiles = await asyncio.gather(*(client.profile(run_id, step) for run_id in run_ids))
    revisions = await asyncio.gather(*(client.predictions(run_id) for run_id in run_ids))
    return layout(runs, profiles, revisions)


def _wrong_number(n_runs: int) -> ApiError:
    return ApiError(
        400,
        f"A comparison takes 2 to {theme.MAX_COMPARED} runs; {n_runs} were asked for.",
        f"Tick 2 to {theme.MAX_COMPARED} runs in the list, then press Compare.",
    )


def layout(
    runs: Sequence[RunDetail],
    profiles: Sequence[Profile | None],
    revisions: Sequence[Sequence[Revision]],
) -> html.Div:
    """The page, one column for each run."""
    scalars = graph(
        scalar_chart([ScalarRun(name=run.name, colour=colour) for run, colour in _coloured(runs)]),
        ids.COMPARE_SCALARS,
        "over-steps",
    )
    lines = plot(scalars, "Loss and learning rate of every run over steps")
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=page_data(runs).store()),
            html.Div([html.H1("Compare"), legend()], className="toolbar"),
            html.Div(
                [
                    _heads(runs),
                    *(_row(quantity, runs, profiles, revisions) for quantity in QUANTITIES),
                    chart_card("Loss and learning rate", "", lines),
                    _differences(runs),
                ],
                className="comparison",
            ),
            player(),
        ],
        className="page page-compare",
    )


def page_data(runs: Sequence[RunDetail]) -> PageData:
    """What the script needs to know of the runs."""
    return PageData(
        page="compare",
        charts=CHARTS,
        scalars=ids.COMPARE_SCALARS,
        heatmaps=[heatmap_id(index) for index in range(1, len(runs))],
        runs=[
            RunData(
                id=run.id,
                name=run.name,
                colour=colour,
                status=run.status,
                stack=stack_of(run),
                stacks=run.stacks,
                last_seen=run.last_seen,
            )
            for run, colour in _coloured(runs)
        ],
    )


def _coloured(runs: Sequence[RunDetail]) -> list[tuple[RunDetail, str]]:
    return list(zip(runs, theme.RUN_COLOURS, strict=False))


def _heads(runs: Sequence[RunDetail]) -> html.Div:
    heads = [
        html.Div(
            [
                html.Div(
                    [
                        html.I(className="swatch", style={"background": colour}),
                        html.A(run.name, href=f"/runs/{run.id}", className="run-name"),
                        status_chip(run.status, **{"data-run-status": run.id}),
                        html.Span(className="at-step"),
                    ],
                    **{"data-run-step": run.id},
                ),
                html.Div(run.architecture, className="quiet"),
            ],
            className="head",
        )
        for run, colour in _coloured(runs)
    ]
    first = runs[0].name
    heads.append(
        html.Div(
            [
                html.Div("Difference", className="run-name"),
                html.Div(f"log₂ of run / {first}; correlation: run − {first}", className="quiet"),
            ],
            className="head",
        )
    )
    return html.Div(heads, className="heads", style={"--columns": len(heads)})


def _row(
    quantity: Quantity,
    runs: Sequence[RunDetail],
    profiles: Sequence[Profile | None],
    revisions: Sequence[Sequence[Revision]],
) -> html.Section:
    columns = [
        depth_column(quantity, stack_of(run), profile, predicted, title=run.name, colour=colour)
        for (run, colour), profile, predicted in zip(
            _coloured(runs), profiles, revisions, strict=True
        )
    ]
    drawn = graph(
        depth_chart(quantity, columns, difference=True), CHARTS[quantity.name], "over-layers"
    )
    reasons = [
        why_missing(predicted[0] if predicted else None, column.predicted)
        for predicted, column in zip(revisions, columns, strict=True)
    ]
    return chart_card(
        quantity.title,
        quantity.note,
        missing_reasons(quantity.name, [*reasons, ""]),  # the last column is the difference
        plot(drawn, f"{quantity.title} over layers, one panel a run, and their difference"),
    )


def _differences(runs: Sequence[RunDetail]) -> html.Section:
    """Steps × layers of every other run against the first."""
    first = runs[0].name
    maps = [
        html.Div(
            [
                html.H3([html.I(className="swatch", style={"background": colour}), run.name]),
                heatmap(
                    heatmap_id(index),
                    n_layers=n_layers(run, stack_of(run)),
                    last_step=run.last_step or 1,
                    label=f"{run.name} against {first}, steps by layers",
                ),
            ]
        )
        for index, (run, colour) in enumerate(_coloured(runs))
        if index
    ]
    body = html.Div(maps, className="heatmaps", style={"--columns": len(maps)})
    note = f"log₂ of run / {first}; correlation: run − {first}"
    return chart_card("Difference over steps", note, body, side=heatmap_switch())


def heatmap_id(index: int) -> str:
    """Id of the heatmap of the run at `index` against the first one."""
    return f"{ids.COMPARE_HEATMAP}-{index}"
