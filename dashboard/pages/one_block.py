"""The card of one block in the tab *Why*: its causes in decades, which add up, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html

from dashboard.api_types import AttributionDirection, StackAttribution
from dashboard.display.numbers import format_number
from dashboard.pages.charts import chart_card

SMALL = 0.005  # decades that read as 0.00


def block_card(
    answer: StackAttribution, terms: Sequence[str], block: int, *, stack: str
) -> html.Section:
    """One block's change since the first description, forward and backward."""
    n_blocks = len(answer.forward.total)
    buttons = block_buttons(block, n_blocks)
    if not 0 <= block < n_blocks:
        absent = html.P(f"The {stack} has {n_blocks} blocks, from 0 on.", className="quiet none")
        return chart_card(f"Block {block}", "", absent, side=buttons)
    return chart_card(
        f"Block {block}",
        "in decades; the causes add up to the total",
        html.P(block_sentence(answer, block), className="block-sentence"),
        html.Div(_table(answer, terms, block), className="cause-scroll"),
        side=buttons,
    )


def block_buttons(block: int | None, n_blocks: int) -> list[Any]:
    """Buttons by which the script chooses a block, or all of them."""
    if block is None:
        return [_button("Block by block", 0)]
    return [
        _button("‹", block - 1, "The block below", disabled=block <= 0),
        _button("›", block + 1, "The block above", disabled=block >= n_blocks - 1),
        _button("All blocks", ""),
    ]


def _button(text: str, block: int | str, label: str = "", *, disabled: bool = False) -> html.Button:
    return html.Button(
        text,
        type="button",
        className="view small",
        disabled=disabled,
        **{"data-block": str(block), "aria-label": label or text},
    )


def block_sentence(answer: StackAttribution, block: int) -> str:
    """What the block makes of the variance and of the gradient, and the largest cause of each."""
    forward = _clause(answer.forward, block, "The variance behind it is")
    backward = _clause(answer.backward, block, "its gain of the gradient is")
    return f"{forward}; {backward}."


def _clause(direction: AttributionDirection, block: int, subject: str) -> str:
    total = direction.total[block]
    if total is None:
        return f"{subject} not known"
    causes = {
        name: value
        for name, values in direction.terms.items()
        if (value := values[block]) is not None and abs(value) > SMALL
    }
    claim = f"{subject} {_times(total)} of the first description's"
    if not causes:
        return f"{subject} as in the first description"
    largest = max(causes, key=lambda name: abs(causes[name]))
    return f"{claim}, most of all by {largest.replace('_', ' ')} ({_times(causes[largest])})"


def _times(decades: float) -> str:
    return f"×{format_number(10**decades, 3)}"


def _table(answer: StackAttribution, terms: Sequence[str], block: int) -> html.Table:
    directions = (answer.forward, answer.backward)
    rows = [
        _row(name.replace("_", " "), [_at(d.terms.get(name), block) for d in directions])
        for name in terms
        if any(_at(d.terms.get(name), block) for d in directions)
    ]
    total = _row("together", [_at(d.total, block) for d in directions], "cause-total")
    head = html.Tr([html.Th("cause"), html.Th("variance behind it"), html.Th("gradient's gain")])
    return html.Table([html.Thead(head), html.Tbody([*rows, total])], className="cause-parts")


def _at(values: Sequence[float | None] | None, block: int) -> float | None:
    return None if values is None else values[block]


def _row(name: str, decades: Sequence[float | None], kind: str = "") -> html.Tr:
    cells = [html.Td(_decades(value), className="number") for value in decades]
    return html.Tr([html.Th(name, scope="row"), *cells], className=kind)


def _decades(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")
