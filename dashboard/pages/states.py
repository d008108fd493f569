"""What a page shows when it has nothing to draw: no runs, no match, a failure."""

from __future__ import annotations

from dash import html

from dashboard.api_client import ApiError
from dashboard.pages.chips import snippet

CONNECT = """import trainer_agent

agent = trainer_agent.watch(
    model, project="my-project", run="first-run", optimizer=optimizer,
    server="{origin}",
)
for batch in loader:
    loss = train_step(batch)
    agent.step(loss=loss)
agent.close()"""


def no_runs(origin: str, element_id: str) -> html.Div:
    """How to connect a training job to this server; the first thing that a new user sees."""
    return html.Div(
        [
            html.H2("No runs yet"),
            html.P(
                "Add these lines to a PyTorch training script. The run appears here with its first "
                "sampled step; training goes on unchanged if this server is away."
            ),
            snippet(CONNECT.format(origin=origin)),
            html.P(
                ["Only looking? ", html.Code("evenkeel demo"), " starts three small GPTs."],
                className="quiet",
            ),
        ],
        className="empty card",
        id=element_id,
    )


def nothing_matches() -> html.Div:
    """No run passes the filters."""
    return html.Div(
        [html.H2("No run matches"), html.P("Widen the search or the filters above.")],
        className="empty card",
    )


def failure(error: ApiError) -> html.Div:
    """The API's refusal in its own words, or that it is away."""
    title = "Not found" if error.status == 404 else "The server could not answer"
    return html.Div(
        [
            html.H2(title),
            html.P(error.message),
            html.P(error.fix or "Reload the page, or go back to the list of runs."),
            html.A("All runs", href="/", className="button"),
        ],
        className="empty card failed",
        **{"data-testid": "failure"},
    )


def not_found(path: str) -> html.Div:
    """No page has this address."""
    return failure(ApiError(404, f"There is no page at {path}."))
