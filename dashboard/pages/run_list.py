"""The columns and rows of the run list, or a note in their place when there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from dashboard import ids, phrases
from dashboard.api_types import RunSummary
from dashboard.display.numbers import format_count, format_loss
from dashboard.figures import sparkline_uri
from dashboard.pages.chips import alert_badges, status_chip, tag_chips
from dashboard.pages.states import no_runs, nothing_matches
from dashboard.pages.suggestions import Suggestion, suggested_comparisons

PAGE_SIZE = 100


def run_list(
    runs: Sequence[RunSummary],
    selected: Sequence[str],
    *,
    filtered: bool,
    origin: str,
    shown: int = PAGE_SIZE,
) -> list[Any]:
    """Suggestions and at most `shown` rows; without any run, how to get one."""
    if not runs:
        return [nothing_matches() if filtered else no_runs(origin, ids.RUNS_EMPTY)]
    heads = ("", "Run", "Status", "Loss", "", "Step", "Alerts", "Tags", "Last frame")
    head = html.Div([html.Span(title) for title in heads], className="run-row run-head")
    rows = html.Div(
        [head, *(_row(run, run.id in selected) for run in runs[:shown])], className="card"
    )
    suggestions = [_suggestion(suggestion) for suggestion in suggested_comparisons(runs)]
    return [*suggestions, rows, *_more(len(runs) > shown)]


def _more(is_more: bool) -> list[html.Button]:
    if not is_more:
        return []
    return [html.Button("Show older runs", id=ids.RUNS_MORE, className="button more")]


def _suggestion(suggestion: Suggestion) -> html.A:
    return html.A(
        [
            html.Strong("Pre-LN beside Post-LN"),
            html.Span(" · ".join(suggestion.names), className="names"),
            html.Span("Compare →", className="go"),
        ],
        href=suggestion.href,
        className="suggestion",
        **{"data-testid": "suggested-comparison"},
    )


def _row(run: RunSummary, selected: bool) -> html.Div:
    cells = [
        html.Div(_checkbox(run.id, run.name, selected=selected), **{"data-testid": "run-select"}),
        _title(run),
        status_chip(run.status),
        _spark(run),
        html.Span(format_loss(run.last_loss), className="number loss"),
        html.Span(format_count(run.last_step), className="number"),
        alert_badges(run.alerts),
        html.Span(tag_chips(run.tags), className="tags"),
        html.Span(phrases.age(run.last_seen), className="quiet number"),
    ]
    attributes = {"data-testid": "run-row", "data-run": run.id, "data-status": run.status}
    # By its key React knows a row again, so that a refresh moves it and keeps the focus.
    return html.Div(cells, className=f"run-row row-{run.status}", key=run.id, **attributes)


def _checkbox(run_id: str, name: str, *, selected: bool) -> dcc.Checklist:
    return dcc.Checklist(
        [{"label": html.Span(f"Compare {name}", className="unseen"), "value": run_id}],
        [run_id] if selected else [],
        id={"type": ids.RUN_SELECT, "run": run_id},
    )


def _title(run: RunSummary) -> html.Div:
    link = html.A(run.name, href=f"/runs/{run.id}", className="run-name")
    small = " · ".join(part for part in (run.project, run.architecture) if part)
    return html.Div(
        [link, html.Span(small, className="quiet")],
        className="run-title",
        **{"data-testid": "run-link"},
    )


def _spark(run: RunSummary) -> html.Div:
    mask = f"url('{sparkline_uri(run.sparkline)}')"
    # Chromium before 120 knows masks by their prefix alone.
    style = {"maskImage": mask, "WebkitMaskImage": mask}
    return html.Div(className="spark", style=style, role="img", **{"aria-label": "loss over steps"})
