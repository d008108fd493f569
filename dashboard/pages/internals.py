"""The run page's second tab: branch variances and attention logits of the step on show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, html, no_update

from dashboard import ids, theme
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import Profile, StackProfile
from dashboard.display.numbers import format_count
from dashboard.figures import BLOCK_CHARTS, BlockChart, block_chart
from dashboard.page_data import read_page, read_step
from dashboard.pages.charts import chart_card, graph, plot
from dashboard.pages.profiles import profile_of
from dashboard.vectors import Vector


def block_cards(profile: Profile | None, stack: str) -> list[Any]:
    """One card for each quantity that was measured; a sentence where none was."""
    cards = [_card(chart, profile_of(profile, stack)) for chart in BLOCK_CHARTS]
    drawn = [card for card in cards if card is not None]
    if profile is None or not drawn:
        return [html.P("Nothing was measured inside this run's blocks.", className="quiet none")]
    step = html.P(f"at step {format_count(profile.step)}", className="quiet block-step")
    return [step, *drawn]


def _card(chart: BlockChart, profile: StackProfile) -> html.Section | None:
    measured = [(name, profile.vector(series)) for series, name in chart.series.items()]
    curves = [(name, values) for name, values in measured if values is not None]
    # What the agent cannot measure on this model is NaN in every frame.
    if all(np.isnan(values).all() for _, values in curves):
        return None
    slug = next(iter(chart.series)).replace("/", "-").replace("_", "-")
    drawn = graph(block_chart(chart, curves), f"block-{slug}", "over-layers")
    body = plot(drawn, f"{chart.title} over layers")
    return chart_card(chart.title, chart.note, body, side=_names(curves))


def _names(curves: list[tuple[str, Vector]]) -> list[Any]:
    if len(curves) < 2:
        return []
    return [
        html.Span([html.I(className="swatch", style={"background": colour}), name], className="key")
        for (name, _), colour in zip(curves, theme.RUN_COLOURS, strict=False)
    ]


def register(app: Dash, client: ApiClient) -> None:
    """Draws the tab for the step on show, while the tab is open."""

    async def show_blocks(on_show: Mapping[str, Any] | None, page: Mapping[str, Any]) -> Any:
        step, run = read_step(on_show), read_page(page).run
        if step is None or step.tab in ("series", "why") or run is None:
            return no_update
        try:
            profile = await client.profile(run.id, step.step)
        except ApiError:
            return no_update  # the charts of the step before stay; the next step asks again
        return block_cards(profile, step.stack)

    app.callback(
        Output(ids.RUN_INTERNALS, "children"),
        Input(ids.RUN_INTERNALS_STEP, "data"),
        State(ids.PAGE_DATA, "data"),
    )(show_blocks)
