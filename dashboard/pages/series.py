"""The run page's third tab: any series that the run has, also those no other chart draws."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboard import ids
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import History, Profile, SeriesInfo
from dashboard.display.numbers import format_count
from dashboard.figures import colour_of, series_over_layers, series_over_steps, shown_layers
from dashboard.page_data import read_page, read_step
from dashboard.pages.charts import chart_card, graph, plot
from dashboard.pages.profiles import profile_of
from dashboard.vectors import Matrix, Vector, decode

MAX_STEPS = 400
PREFERRED = ("variance", "rms")  # shown of a site before a quantity is chosen


def pickers(layout: Sequence[SeriesInfo]) -> list[Any]:
    """The choice of a site and, of that, a quantity."""
    sites = site_options(layout)
    chosen = sites[0]["value"] if sites else None
    return [
        dcc.RadioItems(sites, chosen, id=ids.RUN_SERIES_SITE, className="segmented", inline=True),
        dcc.RadioItems([], None, id=ids.RUN_SERIES_QUANTITY, className="segmented", inline=True),
        html.Div(id=ids.RUN_SERIES, className="profiles series"),
    ]


def site_options(layout: Sequence[SeriesInfo]) -> list[dict[str, str]]:
    """Sites of every stack in the layout's order, then those of the model as one."""
    stacks = list(dict.fromkeys(series.stack for series in layout if series.stack))
    labels = {}
    for stack in (*stacks, ""):
        prefix = f"{stack}: " if stack and len(stacks) > 1 else "" if stack else "model: "
        for series in layout:
            if series.stack == stack:
                labels[f"{stack}/{series.site}"] = prefix + _spaced(series.site)
    return [{"label": label, "value": key} for key, label in labels.items()]


def quantity_options(keys: Sequence[str], site: str) -> list[dict[str, str]]:
    """Quantities of a site ``stack/site``, by the keys ``stack/site/quantity`` of all series."""
    split = [key.rsplit("/", 1) for key in keys]
    return [{"label": _spaced(name), "value": name} for parent, name in split if parent == site]


def series_cards(key: str, history: History, profile: Profile | None) -> list[Any]:
    """The series over layers at the step on show, and over steps."""
    stack, site, quantity = key.split("/", 2)
    title = _spaced(f"{site} {quantity}")
    steps, values = history_of(history)
    at_step = profile_of(profile, stack).vector(f"{site}/{quantity}")
    cards = []
    if profile is not None and at_step is not None and values.shape[1] > 1:
        drawn = graph(series_over_layers(quantity, at_step), "series-layers", "over-layers")
        note = f"at step {format_count(profile.step)}{_holes(at_step)}"
        cards.append(chart_card(title, note, plot(drawn, f"{title} over layers")))
    drawn = graph(series_over_steps(steps, values), "series-steps", "over-layers")
    body = plot(drawn, f"{title} over steps")
    note = f"over steps{_holes(values)}"
    return [*cards, chart_card(title, note, body, side=_layer_names(values))]


def history_of(history: History) -> tuple[Vector, Matrix]:
    """Steps, (steps,), and values, (steps, layers)."""
    values = decode(history.values_f32).reshape(history.shape)
    return np.asarray(history.steps, dtype=float), values


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _holes(values: Vector | Matrix) -> str:
    n_nonfinite = int((~np.isfinite(values)).sum())
    if not n_nonfinite:
        return ""
    if n_nonfinite == values.size:
        return "; nothing measured"
    return f"; {format_count(n_nonfinite)} not finite"


def _layer_names(values: Matrix) -> list[Any]:
    n = values.shape[1]
    if n < 2:
        return []
    return [
        html.Span(
            [html.I(className="swatch", style={"background": colour_of(layer, n)}), f"{layer}"],
            className="key",
        )
        for layer in shown_layers(n)
    ]


def register(app: Dash, client: ApiClient) -> None:
    """Draws the chosen series, while the tab is open."""

    def offer(site: str | None, page: Mapping[str, Any], chosen: str | None) -> Any:
        run = read_page(page).run
        if not site or run is None:
            return no_update, no_update
        options = quantity_options(run.series, site)
        names = [option["value"] for option in options]
        # Another site's quantity stays chosen where this site has it too.
        order = (chosen, *PREFERRED, *names)
        return options, next((name for name in order if name in names), None)

    app.callback(
        Output(ids.RUN_SERIES_QUANTITY, "options"),
        Output(ids.RUN_SERIES_QUANTITY, "value"),
        Input(ids.RUN_SERIES_SITE, "value"),
        State(ids.PAGE_DATA, "data"),
        State(ids.RUN_SERIES_QUANTITY, "value"),
    )(offer)

    async def show(
        on_show: Mapping[str, Any] | None, quantity: str | None, site: str, page: Mapping[str, Any]
    ) -> Any:
        step, run = read_step(on_show), read_page(page).run
        if step is None or step.tab != "series" or not quantity or run is None:
            return no_update
        key = f"{site}/{quantity}"
        try:
            history, profile = await asyncio.gather(
                client.history(run.id, key, MAX_STEPS), client.profile(run.id, step.step)
            )
        except ApiError as error:
            return [html.P(error.message, className="quiet none")]
        return series_cards(key, history, profile)

    app.callback(
        Output(ids.RUN_SERIES, "children"),
        Input(ids.RUN_INTERNALS_STEP, "data"),
        Input(ids.RUN_SERIES_QUANTITY, "value"),
        Input(ids.RUN_SERIES_SITE, "value"),
        State(ids.PAGE_DATA, "data"),
    )(show)
