from __future__ import annotations

from typing import Any

import httpx
import pytest
from dash import no_update

from benchmarks.synthetic_run import SyntheticRun, send, spec
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import IncidentChange
from dashboard.pages import incidents, runs, series
from dashboard.pages.run_list import run_list
from dashboard.routing import page_of
from tests.dashboard.samples import ALERT, LINE, incident, run_summary, text_of
from tests.services.polling import eventually


async def predicted(client: ApiClient, run: SyntheticRun) -> None:
    await eventually(
        lambda: client.predictions(run.run_id),
        lambda revisions: revisions and revisions[0].state == "ready",
    )


@pytest.fixture
async def pre(http: httpx.AsyncClient, client: ApiClient) -> SyntheticRun:
    run = SyntheticRun.new("pre", spec(4))
    await send(http, run, range(30))
    await predicted(client, run)
    return run


async def test_client_reads_runs_that_an_agent_sent(client: ApiClient, pre: SyntheticRun) -> None:
    runs_found = await client.runs(search="pre")

    assert [run.id for run in runs_found] == [pre.run_id]
    assert await client.runs(search="no such run") == []


async def test_client_says_what_the_server_said(client: ApiClient) -> None:
    with pytest.raises(ApiError) as refused:
        await client.run("f" * 32)

    assert refused.value.status == 404
    assert refused.value.message


async def test_client_has_no_profile_of_a_run_without_steps(
    client: ApiClient, http: httpx.AsyncClient
) -> None:
    run = SyntheticRun.new("early", spec(2))
    await send(http, run, [])

    assert await client.profile(run.run_id) is None


async def test_client_reads_past_a_page_and_stops_at_the_limit(
    client: ApiClient, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.api_client.LARGEST_PAGE", 2)
    for number in range(5):
        await send(http, SyntheticRun.new(f"run-{number}", spec(2)), [])

    assert [run.name for run in await client.runs(limit=9)] == [f"run-{n}" for n in "43210"]
    assert len(await client.runs(limit=3)) == 3


async def test_client_asks_a_job_to_describe_itself_while_it_runs(
    client: ApiClient, http: httpx.AsyncClient, pre: SyntheticRun
) -> None:
    assert (await client.describe(pre.run_id)).id
    await send(http, pre, [], declare=False, end=True)

    with pytest.raises(ApiError) as refused:
        await client.describe(pre.run_id)

    assert refused.value.status == 409


async def test_client_without_a_server_says_so() -> None:
    away = ApiClient(None, url="http://127.0.0.1:9")  # type: ignore[arg-type]

    with pytest.raises(ApiError) as refused:
        await away.runs()

    assert refused.value.status == 0


async def test_run_page_draws_measured_over_predicted(client: ApiClient, pre: SyntheticRun) -> None:
    page = text_of(await page_of(client, f"/runs/{pre.run_id}", ""))

    for said in ("measured:0", "predicted:0", "Pre-LN decoder, 4 × 64", "run-heatmap-canvas"):
        assert said in page


async def test_run_page_of_a_run_without_steps_says_so(
    client: ApiClient, http: httpx.AsyncClient
) -> None:
    run = SyntheticRun.new("early", spec(2))
    await send(http, run, [])

    assert "No steps yet" in text_of(await page_of(client, f"/runs/{run.run_id}", ""))


async def test_compare_page_lays_runs_side_by_side_once_each(
    client: ApiClient, http: httpx.AsyncClient, pre: SyntheticRun
) -> None:
    post = SyntheticRun.new("post", spec(4, placement="post"))
    await send(http, post, range(20))

    query = f"?runs={pre.run_id},{post.run_id},{post.run_id}"
    page = text_of(await page_of(client, "/compare", query))

    assert "measured:1" in page and "measured:2" not in page
    assert "difference1:2" in page


@pytest.mark.parametrize("asked", ["", "?runs=a", "?runs=a,b,c,d,e"])
async def test_compare_page_of_too_few_or_many_runs_says_how_many(
    client: ApiClient, asked: str
) -> None:
    assert "2 to 4 runs" in text_of(await page_of(client, "/compare", asked))


async def test_unknown_address_is_said(client: ApiClient) -> None:
    assert "no page at /elsewhere" in text_of(await page_of(client, "/elsewhere", ""))


def test_empty_list_shows_the_snippet_with_this_servers_address() -> None:
    shown = text_of(run_list([], [], filtered=False, origin="http://127.0.0.1:4242"))

    assert "trainer_agent.watch" in shown and "http://127.0.0.1:4242" in shown


def test_longer_list_offers_the_older_runs() -> None:
    rows = [run_summary(id=name, name=name) for name in "abc"]

    assert "runs-more" in text_of(run_list(rows, [], filtered=True, origin="", shown=2))
    assert "runs-more" not in text_of(run_list(rows, [], filtered=True, origin="", shown=3))
    assert (runs.show_more(1, 100), runs.show_more(None, 100)) == (200, no_update)


def test_filtered_list_without_a_match_does_not_pretend_there_are_no_runs() -> None:
    shown = text_of(run_list([], [], filtered=True, origin=""))

    assert "No run matches" in shown


@pytest.mark.parametrize(
    ("href", "origin"),
    [("http://10.0.0.2:8321/?a=1", "http://10.0.0.2:8321"), ("https://x.org/", "https://x.org")],
)
def test_origin_is_scheme_host_and_port(href: str, origin: str) -> None:
    assert runs.origin_of(href) == origin


def test_projects_are_offered_once_there_is_a_choice() -> None:
    assert runs.project_options(["demo", "demo"]) == []
    offered = [option["value"] for option in runs.project_options(["b", "a", "b"])]
    assert offered == ["", "a", "b"]


def test_selection_keeps_what_a_filter_hides_and_drops_what_is_unticked() -> None:
    rows = [{"type": "run-select", "run": "b"}, {"type": "run-select", "run": "c"}]

    href, label, *_, selected = runs.choose([[], ["c"]], rows, ["a", "b"])

    assert selected == ["a", "c"]
    assert href == "/compare?runs=a,c" and label == "Compare 2 runs"


def test_incident_card_says_cause_place_numbers_and_what_to_do() -> None:
    shown = text_of(incidents.incident_card(incident(), with_run=True))

    for said in (
        "stream",
        "step 17",
        "layers 3–9",
        "0.99",
        "NaN",
        "0.9789",
        "0.2041",
        "deepscale(model)",
        "step 21: opened: Rank collapse",
    ):
        assert said in shown


def test_incident_shows_its_evidence_with_one_remedy() -> None:
    other = ALERT | {"id": "8", "title": "Logits grow", "advice": {"text": "QK-norm."}}
    cleared = other | {"id": "9", "title": "Loss rises", "status": "resolved"}

    shown = text_of(
        incidents.incident_card(incident(alerts=[ALERT, other, cleared]), with_run=True)
    )

    assert "Logits grow" in shown and "Loss rises" in shown and "clear again" in shown
    assert "Use DeepScaleLM." in shown and "QK-norm." not in shown


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ("open", {"acknowledge", "resolve", "note", "silence"}),
        ("acknowledged", {"resolve", "reopen", "note", "silence"}),
        ("resolved", {"reopen", "note"}),
    ],
)
def test_incident_offers_what_its_status_allows(status: str, offered: set[str]) -> None:
    shown = text_of(incidents.incident_card(incident(status=status), with_run=False))

    actions = {"acknowledge", "resolve", "reopen", "note", "silence"}
    shown_actions = {action for action in actions if f'"data-incident-action": "{action}"' in shown}
    assert shown_actions == offered
    assert "post-ln" not in shown


def test_incident_without_scaling_shows_its_advice_alone() -> None:
    advice = {"text": "Lower the rate.", "scaling": None}

    shown = text_of(incidents.incident_card(incident(advice=advice), with_run=False))

    assert "Lower the rate." in shown and "alert-snippet" not in shown


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "step 1,200: opened: Rank collapse"),
        ({"kind": "root"}, "step 1,200: root is now: Rank collapse"),
        ({"kind": "resolved"}, "step 1,200: resolved"),
        ({"kind": "note", "step": None, "text": "rate halved"}, "ago: note: rate halved"),
    ],
)
def test_line_of_a_timeline_is_a_sentence(changes: dict[str, Any], text: str) -> None:
    line = IncidentChange(**({**LINE, "step": 1200} | changes))

    assert incidents.line_text(line, {"7": "Rank collapse"}).endswith(text)


async def test_every_series_of_a_run_can_be_chosen_and_is_drawn(
    client: ApiClient, pre: SyntheticRun
) -> None:
    layout = (await client.run(pre.run_id)).layout
    keys = [series_info.key for series_info in layout]
    offered = [
        f"{site['value']}/{quantity['value']}"
        for site in series.site_options(layout)
        for quantity in series.quantity_options(keys, site["value"])
    ]
    history = await client.history(pre.run_id, "decoder/stream/variance", 10)
    profile = await client.profile(pre.run_id)

    drawn = text_of(series.series_cards("decoder/stream/variance", history, profile))

    assert sorted(offered) == sorted(keys)
    assert "stream variance over layers" in drawn and "stream variance over steps" in drawn
    assert len(history.steps) == 10


async def test_a_series_of_the_whole_model_is_drawn_over_steps(
    client: ApiClient, pre: SyntheticRun
) -> None:
    history = await client.history(pre.run_id, "/loss/value", 10)

    drawn = text_of(series.series_cards("/loss/value", history, await client.profile(pre.run_id)))

    assert "loss value over steps" in drawn and "over layers" not in drawn
