"""The run page's tab *Why*: what makes each block differ from the run's first description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import Dash, Input, Output, State, html, no_update

from dashboard import ids
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import Attribution, AttributionDirection, AttributionPart
from dashboard.display.numbers import format_count, format_number
from dashboard.figures import causes_chart, colours_of_causes
from dashboard.page_data import read_page, read_step
from dashboard.pages.charts import chart_card, graph, plot
from dashboard.pages.one_block import block_buttons, block_card
from dashboard.vectors import Vector, number

LARGEST_PARTS = 12
ONE_DESCRIPTION = (
    "The model was not described again up to this step, so there is nothing to compare. "
    "Jobs describe their model by themselves as they go on; Describe again asks a running one to."
)
CHARTS = (
    ("cumulative", "Forward, from the bottom", "what the blocks below bring included"),
    ("forward", "Forward, block by block", "variance behind the block"),
    ("backward", "Backward, block by block", "the gradient's gain through the block"),
)


def cause_cards(attribution: Attribution, stack: str, block: int | None = None) -> list[Any]:
    """Which steps are compared, the sentences, the charts, the largest parts, what is missing.

    With a block, its own numbers come first.
    """
    compared = (
        f"step {format_count(attribution.step)} against step "
        f"{format_count(attribution.baseline_step)}; in decades, log₁₀ of the ratio"
    )
    heading = html.P(compared, className="quiet block-step")
    answer = attribution.stacks.get(stack)
    if answer is None:
        return [heading, html.P(f"Nothing is known of the {stack}.", className="quiet none")]
    if attribution.step == attribution.baseline_step:
        return [heading, html.P(ONE_DESCRIPTION, className="quiet none")]
    sentences = html.Ul([html.Li(line) for line in answer.sentences], className="cause-lines")
    directions = (answer.cumulative, answer.forward, answer.backward)
    if block is None:
        buttons = block_buttons(None, len(answer.forward.total))
        words = chart_card("In words", attribution.note, sentences, side=buttons)
    else:
        words = block_card(answer, attribution.terms, block, stack=stack)
    return [
        heading,
        words,
        *(
            _card(slug, title, note, attribution.terms, direction)
            for (slug, title, note), direction in zip(CHARTS, directions, strict=True)
        ),
        _largest(answer.parts, block),
        *_missing(attribution),
    ]


def _card(
    slug: str, title: str, note: str, terms: Sequence[str], direction: AttributionDirection
) -> html.Section:
    values = {
        _spaced(name): _vector(direction.terms[name]) for name in terms if _has(direction, name)
    }
    # Of all causes, so that a cause has the same colour in every chart.
    colours = colours_of_causes([_spaced(name) for name in terms])
    figure = causes_chart(values, _vector(direction.total), colours)
    drawn = graph(figure, f"causes-{slug}", "over-layers")
    names = [
        html.Span(
            [html.I(className="swatch", style={"background": colours[name]}), name], className="key"
        )
        for name in values
    ]
    key = html.Div(names, className="side cause-key")
    return chart_card(title, note, key, plot(drawn, f"{title}: causes over blocks"))


def _has(direction: AttributionDirection, name: str) -> bool:
    """Whether a cause is there for any block, and not 0 for all of them."""
    return any(value for value in direction.terms.get(name, ()))


def _vector(decades: Sequence[float | None]) -> Vector:
    return np.array([number(value) for value in decades])


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _largest(parts: Sequence[AttributionPart], block: int | None) -> html.Section:
    if block is None:
        return chart_card("Largest parts", "of all blocks", _parts(parts))
    of_block = [part for part in parts if part.block == block]
    return chart_card("Largest parts", f"of block {block}", _parts(of_block))


def _parts(parts: Sequence[AttributionPart]) -> html.Div:
    # What enters a block is made by those below it, which have rows of their own.
    inside = [part for part in parts if part.term != "entering"]
    head = html.Tr([html.Th(name) for name in ("block", "direction", "part", "cause", "factor")])
    rows = [
        html.Tr(
            [
                html.Td(part.block, className="number"),
                html.Td(part.direction),
                html.Td(part.part),
                html.Td(_spaced(part.term)),
                html.Td(f"×{format_number(10**part.decades, 3)}", className="number"),
            ]
        )
        for part in inside[:LARGEST_PARTS]
    ]
    table = html.Table([html.Thead(head), html.Tbody(rows)], className="cause-parts")
    return html.Div(table, className="cause-scroll")


def _missing(attribution: Attribution) -> list[Any]:
    if not attribution.missing:
        return []
    lines = [html.Li(f"{part.where}: {part.what}: {part.why}") for part in attribution.missing]
    return [chart_card("Not attributed", "", html.Ul(lines, className="cause-lines"))]


def register(app: Dash, client: ApiClient) -> None:
    """Draws the tab for the step on show, while the tab is open."""

    async def show_causes(on_show: Mapping[str, Any] | None, page: Mapping[str, Any]) -> Any:
        step, run = read_step(on_show), read_page(page).run
        if step is None or step.tab != "why" or run is None:
            return no_update
        try:
            attribution = await client.attribution(run.id, step.step)
        except ApiError as error:
            sentence = f"{error.message} {error.fix}".strip()
            return [html.P(sentence, className="quiet none")]
        return cause_cards(attribution, step.stack, step.block)

    app.callback(
        Output(ids.RUN_CAUSES, "children"),
        Input(ids.RUN_INTERNALS_STEP, "data"),
        State(ids.PAGE_DATA, "data"),
    )(show_causes)
