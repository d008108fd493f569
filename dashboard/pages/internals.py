"""The run page's second tab: branch variances and attention logits of the step on show."""

from __future__ import annotations

from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, html, no_update

from dashboard import formats, ids, theme
from dashboard.api_client import ApiClient, ApiError, Json
from dashboard.figures import BLOCK_CHARTS, BlockChart, block_chart
from dashboard.pages.charts import chart_card, graph, plot
from dashboard.vectors import Vector, decode


def block_cards(profile: Json | None, stack: str) -> list[Any]:
    """One card a quantity that was measured; a sentence where nothing was."""
    series = ((profile or {}).get("stacks") or {}).get(stack, {}).get("series", {})
    cards = [_card(chart, series) for chart in BLOCK_CHARTS]
    drawn = [card for card in cards if card is not None]
    if profile is None or not drawn:
        return [html.P("Nothing was measured inside this run's blocks.", className="quiet none")]
    step = html.P(f"at step {formats.count(profile['step'])}", className="quiet block-step")
    return [step, *drawn]


def _card(chart: BlockChart, series: dict[str, str]) -> html.Section | None:
    curves = [
        (name, decode(series[f"{key}_f32"]))
        for key, name in chart.series.items()
        if f"{key}_f32" in series
    ]
    if not curves or all(_unseen(values) for _, values in curves):
        return None
    slug = next(iter(chart.series)).replace("/", "-").replace("_", "-")
    drawn = graph(block_chart(chart, curves), f"block-{slug}", "over-layers")
    body = plot(drawn, f"{chart.title} over layers")
    return chart_card(chart.title, chart.note, body, side=_names(curves))


def _unseen(values: Vector) -> bool:
    return bool(np.isnan(values).all())


def _names(curves: list[tuple[str, Vector]]) -> list[Any]:
    if len(curves) < 2:
        return []
    return [
        html.Span([html.I(className="swatch", style={"background": colour}), name], className="key")
        for (name, _), colour in zip(curves, theme.RUN_COLOURS, strict=False)
    ]


def register(app: Dash, client: ApiClient) -> None:
    """Draws the tab for the step on show, while the tab is open."""

    async def show_blocks(wanted: Json | None, page: Json) -> Any:
        if not wanted or wanted.get("tab") == "series" or page.get("page") != "run":
            return no_update
        try:
            profile = await client.profile(page["runs"][0]["id"], wanted["step"])
        except ApiError:
            return no_update
        return block_cards(profile, wanted["stack"])

    app.callback(
        Output(ids.RUN_INTERNALS, "children"),
        Input(ids.RUN_INTERNALS_STEP, "data"),
        State(ids.PAGE_DATA, "data"),
    )(show_blocks)
