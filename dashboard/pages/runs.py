"""The page around the run list: search, filters, and the choice of runs to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, dcc, html, no_update

from dashboard import ids, theme
from dashboard.api_client import ApiClient, ApiError
from dashboard.page_data import PageData
from dashboard.pages.run_list import PAGE_SIZE, run_list
from dashboard.pages.states import failure

STATUSES = ("running", "finished", "diverged", "lost_contact", "failed")


def layout() -> html.Div:
    """The page without its rows, which `show_runs` fills in and refreshes on live events."""
    return html.Div(
        [
            dcc.Store(id=ids.PAGE_DATA, data=PageData("runs").store()),
            dcc.Store(id=ids.RUNS_SELECTED, data=[]),
            dcc.Store(id=ids.RUNS_SHOWN, data=PAGE_SIZE),
            html.Div([html.H1("Runs"), *_search(), _compare_link([])], className="toolbar"),
            html.Div([_status_filter(), _project_filter()], className="filters"),
            html.Div(id=ids.RUNS_LIST, className="runs"),
        ],
        className="page page-runs",
    )


def _search() -> list[Any]:
    label = html.Label("Search the runs", htmlFor=ids.RUNS_SEARCH, className="unseen")
    field = dcc.Input(
        id=ids.RUNS_SEARCH,
        type="search",
        placeholder="Search name, tag, architecture…   /",
        className="search",
        autoComplete="off",
        value="",
    )
    return [label, field]


def _status_filter() -> dcc.RadioItems:
    options = [{"label": "All", "value": ""}]
    options += [
        {"label": status.replace("_", " ").capitalize(), "value": status} for status in STATUSES
    ]
    return dcc.RadioItems(options, "", id=ids.RUNS_STATUS, className="segmented", inline=True)


def _project_filter() -> dcc.RadioItems:
    return dcc.RadioItems([], "", id=ids.RUNS_PROJECT, className="segmented", inline=True)


def _compare_link(selected: Sequence[str]) -> html.A:
    ready = 2 <= len(selected) <= theme.MAX_COMPARED
    label = "Compare" if not selected else f"Compare {len(selected)} runs"
    return html.A(
        label,
        id=ids.RUNS_COMPARE,
        href=f"/compare?runs={','.join(selected)}" if ready else None,
        className="button primary" if ready else "button disabled",
        title="" if ready else f"Select 2 to {theme.MAX_COMPARED} runs of the list",
    )


def register(app: Dash, client: ApiClient) -> None:
    """The list's callbacks."""
    _register_list(app, client)
    app.callback(
        Output(ids.RUNS_COMPARE, "href"),
        Output(ids.RUNS_COMPARE, "children"),
        Output(ids.RUNS_COMPARE, "className"),
        Output(ids.RUNS_COMPARE, "title"),
        Output(ids.RUNS_SELECTED, "data"),
        Input({"type": ids.RUN_SELECT, "run": ALL}, "value"),
        State({"type": ids.RUN_SELECT, "run": ALL}, "id"),
        State(ids.RUNS_SELECTED, "data"),
        prevent_initial_call=True,
    )(choose)


def _register_list(app: Dash, client: ApiClient) -> None:
    async def show_runs(
        *, filters: dict[str, str | None], shown: int, _event: Any, selected: list[str], href: str
    ) -> tuple[Any, Any]:
        query = {name: value or "" for name, value in filters.items()}
        try:
            # A run beyond those shown tells that there are older ones.
            runs = await client.runs(**query, limit=shown + 1)
        except ApiError as error:
            return [failure(error)], no_update
        filtered = any(query.values())
        origin = origin_of(href)
        rows = run_list(runs, selected, filtered=filtered, origin=origin, shown=shown)
        return rows, no_update if filtered else project_options([run.project for run in runs])

    app.callback(
        [Output(ids.RUNS_LIST, "children"), Output(ids.RUNS_PROJECT, "options")],
        inputs={
            "filters": {
                "search": Input(ids.RUNS_SEARCH, "value"),
                "status": Input(ids.RUNS_STATUS, "value"),
                "project": Input(ids.RUNS_PROJECT, "value"),
            },
            "shown": Input(ids.RUNS_SHOWN, "data"),
            "_event": Input(ids.LIVE_EVENT, "data"),
        },
        state={"selected": State(ids.RUNS_SELECTED, "data"), "href": State(ids.URL, "href")},
    )(show_runs)
    app.callback(
        Output(ids.RUNS_SHOWN, "data"),
        Input(ids.RUNS_MORE, "n_clicks"),
        State(ids.RUNS_SHOWN, "data"),
        prevent_initial_call=True,
    )(show_more)


def show_more(clicks: int | None, shown: int) -> Any:
    """How many runs are shown after a click."""
    # Dash calls once more when the button appears, without a click.
    return shown + PAGE_SIZE if clicks else no_update


def choose(
    ticked: list[list[str]], rows: list[dict[str, str]], before: list[str]
) -> tuple[Any, ...]:
    """The compare link and the runs it leads to; what a filter hides stays selected."""
    visible = {row["run"] for row in rows}
    checked = [run_id for values in ticked for run_id in values]
    selected = [run_id for run_id in before if run_id not in visible or run_id in checked]
    selected += [run_id for run_id in checked if run_id not in before]
    link = _compare_link(selected)
    return getattr(link, "href", None), link.children, link.className, link.title, selected


def project_options(projects: Sequence[str]) -> list[dict[str, str]]:
    """Radio options, one for each project; none when there is nothing to choose between."""
    names = sorted(set(projects))
    if len(names) < 2:
        return []
    return [
        {"label": "All projects", "value": ""},
        *({"label": name, "value": name} for name in names),
    ]


def origin_of(href: str | None) -> str:
    """Scheme, host and port of the page's address, at which the agent reaches the server too."""
    return "/".join((href or "http://127.0.0.1:8321/").split("/")[:3])
