"""The run list: search, filters, a sparkline a run, and what to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, dcc, html

from dashboard import formats, ids
from dashboard.api_client import ApiClient, ApiError, Json
from dashboard.figures import sparkline_uri
from dashboard.pages.chips import alert_badge, status_chip, tag_chips
from dashboard.pages.states import failure, no_runs, nothing_matches
from dashboard.pages.suggestions import Suggestion, suggested_comparisons

PAGE_SIZE = 100
MAX_COMPARED = 4
STATUSES = ("running", "finished", "diverged", "lost_contact", "failed")


def layout() -> html.Div:
    """The page's frame; the list itself is filled by `show_runs` and refreshed as runs move."""
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data={"page": "runs"}),
            dcc.Store(id=ids.RUNS_SELECTED, data=[]),
            html.Div([html.H1("Runs"), _search(), _compare_link([])], className="toolbar"),
            html.Div([_status_filter(), _project_filter()], className="filters"),
            html.Div(id=ids.RUNS_LIST, className="runs"),
        ],
        className="page page-runs",
    )


def _search() -> dcc.Input:
    return dcc.Input(
        id=ids.RUNS_SEARCH,
        type="search",
        placeholder="Search name, tag, architecture…   /",
        className="search",
        autoComplete="off",
        value="",
    )


def _status_filter() -> dcc.RadioItems:
    options = [{"label": "All", "value": ""}]
    options += [{"label": formats.STATUS_WORDS[s].capitalize(), "value": s} for s in STATUSES]
    return dcc.RadioItems(options, "", id=ids.RUNS_STATUS, className="segmented", inline=True)


def _project_filter() -> dcc.RadioItems:
    return dcc.RadioItems([], "", id=ids.RUNS_PROJECT, className="segmented", inline=True)


def _compare_link(selected: Sequence[str]) -> html.A:
    ready = 2 <= len(selected) <= MAX_COMPARED
    label = "Compare" if not selected else f"Compare {len(selected)} runs"
    return html.A(
        label,
        id=ids.RUNS_COMPARE,
        href=f"/compare?runs={','.join(selected)}" if ready else None,
        className="button primary" if ready else "button disabled",
        title="" if ready else f"Select 2 to {MAX_COMPARED} runs of the list",
    )


def run_list(
    runs: Sequence[Json], selected: Sequence[str], *, filtered: bool, origin: str
) -> list[Any]:
    """Suggestions and rows; or what to do when there are none."""
    if not runs:
        return [nothing_matches() if filtered else no_runs(origin, ids.RUNS_EMPTY)]
    heads = ("", "Run", "Status", "Loss", "", "Step", "Alerts", "Tags", "Last frame")
    head = html.Div([html.Span(word) for word in heads], className="run-row run-head")
    rows = html.Div([head, *(_row(run, run["id"] in selected) for run in runs)], className="card")
    suggestions = [_suggestion(one) for one in suggested_comparisons(runs)]
    return [*suggestions, rows, *_older(len(runs))]


def _older(shown: int) -> list[html.P]:
    if shown < PAGE_SIZE:
        return []
    text = f"The newest {shown} runs are shown; narrow the search to find older ones."
    return [html.P(text, className="quiet older")]


def _suggestion(one: Suggestion) -> html.A:
    return html.A(
        [
            html.Strong("Pre-LN beside Post-LN"),
            html.Span(" · ".join(one.names), className="names"),
            html.Span("Compare →", className="go"),
        ],
        href=one.href,
        className="suggestion",
        **{"data-testid": "suggested-comparison"},
    )


def _row(run: Json, selected: bool) -> html.Div:
    cells = [
        html.Div(_checkbox(run["id"], selected), **{"data-testid": "run-select"}),
        _title(run),
        status_chip(run["status"]),
        _spark(run),
        html.Span(formats.loss(run["last_loss"]), className="number loss"),
        html.Span(formats.count(run["last_step"]), className="number"),
        alert_badge(run["alerts"]),
        html.Span(tag_chips(run["tags"]), className="tags"),
        html.Span(formats.ago(run["last_seen"]), className="quiet number"),
    ]
    marks = {"data-testid": "run-row", "data-run": run["id"], "data-status": run["status"]}
    return html.Div(cells, className=f"run-row row-{run['status']}", key=run["id"], **marks)


def _checkbox(run_id: str, selected: bool) -> dcc.Checklist:
    return dcc.Checklist(
        [{"label": "", "value": run_id}],
        [run_id] if selected else [],
        id={"type": ids.RUN_SELECT, "run": run_id},
    )


def _title(run: Json) -> html.Div:
    link = html.A(run["name"], href=f"/runs/{run['id']}", className="run-name")
    small = " · ".join(part for part in (run["project"], run["architecture"]) if part)
    return html.Div(
        [link, html.Span(small, className="quiet")],
        className="run-title",
        **{"data-testid": "run-link"},
    )


def _spark(run: Json) -> html.Div:
    mask = f"url('{sparkline_uri(run['sparkline'])}')"
    style = {"maskImage": mask, "WebkitMaskImage": mask}
    return html.Div(className="spark", style=style, title="loss")


def register(app: Dash, client: ApiClient) -> None:
    """The list's callbacks."""

    async def show_runs(
        search: str | None, status: str, project: str, _: Any, selected: list[str], href: str
    ) -> list[Any]:
        try:
            runs = await client.runs(
                search=search or "", status=status, project=project, limit=PAGE_SIZE
            )
        except ApiError as error:
            return [failure(error)]
        filtered = bool(search or status or project)
        return run_list(runs, selected, filtered=filtered, origin=origin_of(href))

    app.callback(
        Output(ids.RUNS_LIST, "children"),
        Input(ids.RUNS_SEARCH, "value"),
        Input(ids.RUNS_STATUS, "value"),
        Input(ids.RUNS_PROJECT, "value"),
        Input(ids.PULSE, "data"),
        State(ids.RUNS_SELECTED, "data"),
        State(ids.URL, "href"),
    )(show_runs)

    async def show_projects(_: Any, shown: list[Any]) -> list[dict[str, str]]:
        try:
            runs = await client.runs(limit=PAGE_SIZE)
        except ApiError:
            return shown
        return project_options([run["project"] for run in runs])

    app.callback(
        Output(ids.RUNS_PROJECT, "options"),
        Input(ids.PULSE, "data"),
        State(ids.RUNS_PROJECT, "options"),
    )(show_projects)

    def choose(ticked: list[list[str]]) -> tuple[Any, ...]:
        selected = [run_id for one in ticked for run_id in one]
        link = _compare_link(selected)
        return getattr(link, "href", None), link.children, link.className, link.title, selected

    app.callback(
        Output(ids.RUNS_COMPARE, "href"),
        Output(ids.RUNS_COMPARE, "children"),
        Output(ids.RUNS_COMPARE, "className"),
        Output(ids.RUNS_COMPARE, "title"),
        Output(ids.RUNS_SELECTED, "data"),
        Input({"type": ids.RUN_SELECT, "run": ALL}, "value"),
        prevent_initial_call=True,
    )(choose)


def project_options(projects: Sequence[str]) -> list[dict[str, str]]:
    """Radio options, one a project; none when there is nothing to choose between."""
    names = sorted(set(projects))
    if len(names) < 2:
        return []
    return [
        {"label": "All projects", "value": ""},
        *({"label": name, "value": name} for name in names),
    ]


def origin_of(href: str | None) -> str:
    """Scheme, host and port of the page's address: where the agent finds this server too."""
    return "/".join((href or "http://127.0.0.1:8765/").split("/")[:3])
