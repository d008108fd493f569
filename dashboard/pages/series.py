"""The run page's third tab: any series that the run has, also those no other chart draws."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, dcc, html, no_update

from dashboard import formats, ids
from dashboard.api_client import ApiClient, ApiError, Json
from dashboard.figures import colour_of, series_over_layers, series_over_steps, shown_layers
from dashboard.pages.charts import chart_card, graph, plot
from dashboard.vectors import Vector, decode

MAX_STEPS = 400
FIRST = ("variance", "rms")  # shown of a site before anything is chosen


def pickers(layout: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The choice of a site and, of that, a quantity."""
    sites = site_options(layout)
    chosen = sites[0]["value"] if sites else None
    return [
        dcc.RadioItems(sites, chosen, id=ids.RUN_SERIES_SITE, className="segmented", inline=True),
        dcc.RadioItems([], None, id=ids.RUN_SERIES_QUANTITY, className="segmented", inline=True),
        html.Div(id=ids.RUN_SERIES, className="profiles series"),
    ]


def site_options(layout: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Sites of every stack, then those of the whole model, as they come in the layout."""
    stacks = list(dict.fromkeys(one["stack"] for one in layout if one["stack"]))
    found = {}
    for stack in (*stacks, ""):
        prefix = f"{stack}: " if stack and len(stacks) > 1 else "" if stack else "model: "
        for one in layout:
            if one["stack"] == stack:
                found[f"{stack}/{one['site']}"] = prefix + one["site"].replace("_", " ")
    return [{"label": label, "value": key} for key, label in found.items()]


def quantity_options(series: Sequence[str], site: str) -> list[dict[str, str]]:
    """Quantities of a site, by the keys of all series."""
    mine = [key.rsplit("/", 1)[1] for key in series if key.rsplit("/", 1)[0] == site]
    return [{"label": one.replace("_", " "), "value": one} for one in mine]


def series_cards(key: str, history: Json, profile: Json | None) -> list[Any]:
    """The series over layers at the step on show, and over steps."""
    steps, values = history_of(history)
    stack, site, quantity = key.split("/", 2)
    title = f"{site} {quantity}".replace("_", " ")
    cards = []
    packed = ((profile or {}).get("stacks") or {}).get(stack, {}).get("series", {})
    name = f"{site}/{quantity}_f32"
    if profile is not None and name in packed and values.shape[1] > 1:
        now = decode(packed[name])
        drawn = graph(series_over_layers(quantity, now), "series-layers", "over-layers")
        at = f"at step {formats.count(profile['step'])}{_holes(now)}"
        cards.append(chart_card(title, at, plot(drawn, f"{title} over layers")))
    drawn = graph(series_over_steps(steps, values), "series-steps", "over-layers")
    label = plot(drawn, f"{title} over steps")
    cards.append(chart_card(title, f"over steps{_holes(values)}", label, side=_names(values)))
    return cards


def history_of(history: Json) -> tuple[Vector, Any]:
    """Steps, (steps,), and values, (steps, layers)."""
    values = decode(history["values_f32"]).reshape(history["shape"])
    return np.asarray(history["steps"], dtype=float), values


def _holes(values: Any) -> str:
    lost = int((~np.isfinite(values)).sum())
    if not values.size or not lost:
        return ""
    return "; nothing measured" if lost == values.size else f"; {formats.count(lost)} not finite"


def _names(values: Any) -> list[Any]:
    n = values.shape[1]
    if n < 2:
        return []
    return [
        html.Span(
            [html.I(className="swatch", style={"background": colour_of(at, n)}), f"{at}"],
            className="key",
        )
        for at in shown_layers(n)
    ]


def register(app: Dash, client: ApiClient) -> None:
    """Draws the chosen series, while the tab is open."""

    def offer(site: str | None, page: Json, chosen: str | None) -> Any:
        if not site or page.get("page") != "run":
            return no_update, no_update
        offered = quantity_options(page["runs"][0]["series"], site)
        names = [one["value"] for one in offered]
        return offered, next((one for one in (chosen, *FIRST, *names) if one in names), None)

    app.callback(
        Output(ids.RUN_SERIES_QUANTITY, "options"),
        Output(ids.RUN_SERIES_QUANTITY, "value"),
        Input(ids.RUN_SERIES_SITE, "value"),
        State(ids.PAGE_DATA, "data"),
        State(ids.RUN_SERIES_QUANTITY, "value"),
    )(offer)

    async def show(wanted: Json | None, quantity: str | None, site: str, page: Json) -> Any:
        if not wanted or wanted.get("tab") != "series" or not quantity:
            return no_update
        run, key = page["runs"][0]["id"], f"{site}/{quantity}"
        try:
            history, profile = await asyncio.gather(
                client.history(run, key, MAX_STEPS), client.profile(run, wanted["step"])
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
