from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from benchmarks.synthetic_run import SyntheticRun, encoder_decoder, spec, with_a_hole
from tests.dashboard.pushing import Push
from tests.services.agent import STEPS_LAYOUT, batch, steps_frame
from wire import MEDIA_TYPE

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("dashboard-browser")]

DRAWN = "document.body.dataset.charts === 'drawn'"
TRACE = """([id, meta]) => {
    const chart = document.querySelector(`#${id} .js-plotly-plot`);
    return Array.from(chart.data.find((trace) => trace.meta === meta).y);
}"""
PAINTED = """(id) => {
    const canvas = document.getElementById(`${id || "run-heatmap"}-canvas`);
    const cells = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let painted = 0;
    for (let i = 3; i < cells.length; i += 4) painted += cells[i] > 0;
    return painted / (cells.length / 4);
}"""


@pytest.fixture
def pre(push: Push) -> SyntheticRun:
    run = SyntheticRun.new("pre-ln", spec(6))
    push(run, range(40))
    return run


def open_run(page: Page, run: SyntheticRun, query: str = "") -> None:
    page.goto(f"/runs/{run.run_id}{query}")
    page.wait_for_function(DRAWN)


def test_empty_list_shows_a_copyable_snippet_then_the_first_run_by_itself(
    page: Page, site: str, push: Push
) -> None:
    page.goto("/")
    expect(page.locator("#runs-empty")).to_contain_text(f'server="{site}"')
    expect(page.locator("#runs-empty .copy")).to_be_visible()

    push(SyntheticRun.new("first-run", spec(2)), range(3))

    expect(page.locator('[data-testid="run-row"]')).to_contain_text("first-run")


def test_list_filters_as_one_types_and_compares_what_is_ticked(
    page: Page, push: Push, pre: SyntheticRun
) -> None:
    post = SyntheticRun.new("typed-post", spec(6, placement="post"))
    push(post, range(30))
    page.goto("/")
    expect(page.locator(f'[data-run="{post.run_id}"]')).to_be_visible()
    page.locator(f'[data-run="{pre.run_id}"] input').check()
    page.keyboard.press("/")
    page.keyboard.type("typed-p")
    expect(page.locator('[data-testid="run-row"]')).to_have_count(1)
    page.locator(f'[data-run="{post.run_id}"] input').check()
    expect(page.locator("#runs-compare")).to_have_text("Compare 2 runs")

    page.locator("#runs-compare").click()

    page.wait_for_function(DRAWN)
    assert len(page.evaluate(TRACE, ["compare-variance", "difference1:2"])) == 7


def test_run_page_follows_what_arrives_and_paints_the_heatmap(
    page: Page, push: Push, pre: SyntheticRun
) -> None:
    open_run(page, pre)
    before = page.evaluate(TRACE, ["run-variance", "measured:0"])
    assert page.evaluate(PAINTED) > 0.8

    push(pre, range(40, 60), declare=False)

    expect(page.locator("#player")).to_have_attribute("data-step", "59")
    expect(page.locator("#run-last-step")).to_have_text("59")
    assert page.evaluate(TRACE, ["run-variance", "measured:0"]) != before


def test_page_opened_while_frames_arrive_misses_none(
    page: Page, push: Push, pre: SyntheticRun
) -> None:
    with ThreadPoolExecutor(1) as pool:

        def stream() -> None:
            for step in range(40, 55):
                push(pre, range(step, step + 1), declare=False)

        streaming = pool.submit(stream)
        open_run(page, pre)
        streaming.result(60)

    expect(page.locator("#player")).to_have_attribute("data-step", "54")
    page.wait_for_function(f"() => ({TRACE})(['run-scalars', 'loss:0']).length === 55")
    expect(page.locator("#player-slider")).to_have_attribute("max", "54")


def test_loss_of_steps_between_samples_is_drawn_as_it_arrives(
    page: Page, site: str, pre: SyntheticRun
) -> None:
    open_run(page, pre)

    declaration = msgspec.structs.replace(pre.declaration(), layout=STEPS_LAYOUT)
    path, headers = f"/api/v1/runs/{pre.run_id}", {"content-type": MEDIA_TYPE}
    with httpx.Client(base_url=site) as http:
        http.put(path, content=msgspec.json.encode(declaration)).raise_for_status()
        for frame in (steps_frame(41, 49, [7.5] * 10), steps_frame(42, 59, [6.25] * 10)):
            answer = http.post(f"{path}/frames", content=batch([frame]), headers=headers)
            answer.raise_for_status()

    page.wait_for_function(f"() => ({TRACE})(['run-scalars', 'loss:0']).length === 60")
    assert page.evaluate(TRACE, ["run-scalars", "loss:0"])[40:] == [7.5] * 10 + [6.25] * 10
    expect(page.locator("#run-last-step")).to_have_text("59")
    expect(page.locator("#player")).to_have_attribute("data-step", "39")


def test_scrubbing_stops_following_and_the_address_keeps_the_step(
    page: Page, push: Push, pre: SyntheticRun
) -> None:
    open_run(page, pre)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#player")).to_have_attribute("data-step", "1")
    shown = page.evaluate(TRACE, ["run-variance", "measured:0"])

    push(pre, range(40, 50), declare=False)
    open_run(page, pre, "?step=1")

    assert page.locator("#player").get_attribute("data-following") == "false"
    assert page.evaluate(TRACE, ["run-variance", "measured:0"]) == shown


def test_play_runs_to_the_last_step_and_stops(page: Page, pre: SyntheticRun) -> None:
    open_run(page, pre, "?step=20")

    page.keyboard.press("Space")

    expect(page.locator("#player")).to_have_attribute("data-step", "39")
    expect(page.locator("#player")).to_have_attribute("data-following", "false")


def test_click_on_the_heatmap_goes_to_that_step(page: Page, pre: SyntheticRun) -> None:
    open_run(page, pre)
    box = page.locator("#run-heatmap-canvas").bounding_box()
    assert box is not None

    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)

    expect(page.locator("#player")).to_have_attribute("data-following", "false")
    from_5_to_15 = re.compile(r"^([5-9]|1[0-5])$")
    expect(page.locator("#player")).to_have_attribute("data-step", from_5_to_15)


def test_nan_and_inf_are_marked_and_diverged_is_said(page: Page, push: Push) -> None:
    broken = SyntheticRun.new("broken", spec(6))
    push(broken, range(30), broken_from=20)

    open_run(page, broken)

    expect(page.locator("#run-variance .textpoint")).to_contain_text(["+Inf"])
    expect(page.locator("#run-correlation .textpoint")).to_contain_text(["NaN"])
    expect(page.locator("#run-status")).to_contain_text("diverged")


def test_fault_appears_by_itself_as_one_card_and_is_acknowledged_and_reopened(
    page: Page, push: Push
) -> None:
    run = SyntheticRun.new("breaks-later", spec(6))
    push(run, range(20))
    page.goto("/alerts")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")

    push(run, range(20, 25), declare=False, broken_from=20)

    card = page.locator('[data-testid="incident"]').filter(has_text="breaks-later")
    expect(card).to_have_count(1)
    expect(card).to_have_attribute("data-incident-status", "open")
    expect(card.locator('[data-testid="incident-evidence"] li')).not_to_have_count(0)
    expect(page.locator("#toasts .toast").first).to_be_visible()
    identity = card.get_attribute("data-incident")
    card.locator('[data-incident-action="acknowledge"]').click()
    expect(page.locator(f'[data-incident="{identity}"]:is(article)')).to_have_count(0)

    page.locator('[data-alerts-status="acknowledged"]').click()
    card.locator('[data-incident-action="reopen"]').click()
    expect(page.locator(f'[data-incident="{identity}"]:is(article)')).to_have_count(0)
    page.locator('[data-alerts-status="open"]').click()
    expect(card).to_have_attribute("data-incident-status", "open")


def test_cards_of_faults_fit_a_narrow_window(page: Page, push: Push) -> None:
    run = SyntheticRun.new("a-run-with-quite-a-long-name", spec(6))
    push(run, range(25), broken_from=20)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/alerts")
    page.locator('[data-testid="incident"]').filter(has_text=run.name).wait_for()

    assert page.evaluate("document.documentElement.scrollWidth") <= 390


KNOWN = {
    "id": "known",
    "run_id": "a" * 32,
    "run_name": "broke-before",
    "severity": "warning",
    "title": "Stood when the page opened",
    "status": "open",
    "stack": "decoder",
    "first_layer": 3,
    "last_layer": 6,
    "step": 20,
    "opened_at": 1_760_000_000.0,
}
OPENED = {"id": "opened too", "title": "Opened now", "opened_at": 1_760_000_060.0}


def test_known_incidents_stay_silent_and_new_ones_are_told_once(page: Page) -> None:
    sockets: list[WebSocketRoute] = []

    def join(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    def tell(**changes: Any) -> None:
        sockets[-1].send(json.dumps({"type": "incident", "incident": {**KNOWN, **changes}}))

    page.route_web_socket("**/api/v1/live*", join)
    page.route("**/incidents?limit=100", lambda asked: asked.fulfill(json={"incidents": [KNOWN]}))
    page.goto("/alerts")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")

    tell(last_step=90)
    tell(**OPENED)
    tell(**OPENED, last_step=91)
    expect(page.locator(".toast")).to_have_text(["Opened nowbroke-before, step 20×"])
    href = page.locator(".toast a").get_attribute("href")
    assert href == f"/runs/{'a' * 32}?step=20&stack=decoder&layers=3-6"
    tell(**OPENED, severity="critical")
    expect(page.locator(".toast")).to_have_class(["toast toast-critical"])

    tell(**OPENED | {"title": "Less severe again"}, severity="warning")
    tell(**OPENED | {"id": "last", "title": "Another fault"})
    expect(page.locator(".toast strong")).to_have_text(["Opened now", "Another fault"])


def test_columns_of_the_list_stay_in_line_whatever_a_row_holds(page: Page, push: Push) -> None:
    run = SyntheticRun.new("with-badges", spec(6))
    push(run, range(25), broken_from=20)
    page.goto("/")
    page.locator(f'[data-run="{run.run_id}"] .badge').first.wait_for()

    lefts = """rows => rows.map(row =>
        [...row.children].map(cell => cell.getBoundingClientRect().left))"""
    assert len({tuple(row) for row in page.locator(".run-row").evaluate_all(lefts)}) == 1


def test_comparison_says_which_steps_a_run_lacks(page: Page, push: Push, pre: SyntheticRun) -> None:
    short = SyntheticRun.new("short", spec(6, placement="post"))
    push(short, range(10), end=True)
    behind = SyntheticRun.new("behind", spec(6, placement="post"))
    push(behind, range(20))

    page.goto(f"/compare?runs={pre.run_id},{short.run_id},{behind.run_id}")
    page.wait_for_function(DRAWN)

    expect(page.locator(f'[data-run-step="{short.run_id}"]')).to_contain_text("ends at step 9")
    expect(page.locator(f'[data-run-step="{behind.run_id}"] .at-step')).to_have_text("at step 19")
    assert 0.1 < page.evaluate(PAINTED, "compare-heatmap-1") < 0.5
    assert 0.3 < page.evaluate(PAINTED, "compare-heatmap-2") < 0.9


def test_heatmap_opens_on_what_departs_most_and_the_address_keeps_the_choice(
    page: Page, push: Push
) -> None:
    collapsing = SyntheticRun.new("grows", spec(6))
    push(collapsing, range(700, 740))
    open_run(page, collapsing)
    expect(page.locator('[data-heat="variance"]')).to_have_attribute("aria-pressed", "true")

    page.locator('[data-heat="gradient"]').click()
    page.reload()
    page.wait_for_function(DRAWN)

    assert "heat=gradient" in page.url
    expect(page.locator('[data-heat="gradient"]')).to_have_attribute("aria-pressed", "true")


def test_each_stack_of_an_encoder_decoder_has_its_page(page: Page, push: Push) -> None:
    run = SyntheticRun.new("two-stacks", encoder_decoder(8, 4))
    push(run, range(12))
    open_run(page, run)
    assert len(page.evaluate(TRACE, ["run-variance", "measured:0"])) == 5

    page.locator('[data-stack="encoder"]').click()
    page.wait_for_function(f"() => ({TRACE})(['run-variance', 'predicted:0']).length === 9")
    page.reload()
    page.wait_for_function(DRAWN)
    push(run, range(12, 15), declare=False)

    expect(page.locator("#player")).to_have_attribute("data-step", "14")
    assert len(page.evaluate(TRACE, ["run-gradient", "measured:0"])) == 9
    expect(page.locator('[data-stack="encoder"]')).to_have_attribute("aria-pressed", "true")


def test_prediction_stops_where_the_theory_does_and_says_why(page: Page, push: Push) -> None:
    run = SyntheticRun.new("moe", with_a_hole(6, 3))
    push(run, range(10))

    open_run(page, run)

    expect(page.locator('[data-why="variance:0"]')).to_contain_text(
        "no prediction from layer 4 on: mixture of experts"
    )
    assert page.evaluate(PAINTED) < 0.8


def test_job_that_went_back_to_a_checkpoint_is_shown_from_there(page: Page, push: Push) -> None:
    run = SyntheticRun.new("resumed", spec(4))
    push(run, range(30))
    open_run(page, run)

    push(replace(run, first_seq=1_000_000), range(20, 24))

    expect(page.locator("#player-slider")).to_have_attribute("max", "23")


def test_blocks_tab_draws_what_is_measured_inside(page: Page, pre: SyntheticRun) -> None:
    open_run(page, pre)

    page.get_by_role("button", name="Inside the blocks").click()

    expect(page.locator("#block-attention-variance .js-plotly-plot")).to_be_visible()
    assert "tab=internals" in page.url


def test_unknown_run_is_said_with_a_way_back(page: Page) -> None:
    page.goto(f"/runs/{'f' * 32}")

    expect(page.locator('[data-testid="failure"]')).to_contain_text("Not found")
    page.locator('[data-testid="failure"] a').click()
    expect(page.locator("#runs-search")).to_be_visible()


def test_pages_fit_a_narrow_window_in_both_themes(page: Page, pre: SyntheticRun) -> None:
    page.set_viewport_size({"width": 800, "height": 900})
    for address in ("/", f"/runs/{pre.run_id}", f"/compare?runs={pre.run_id},{pre.run_id}"):
        page.goto(address)
        page.locator("main .page, main .empty").first.wait_for()
        page.locator("#theme-toggle").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 800, address
    assert json.loads(page.evaluate("JSON.stringify(localStorage)"))["evenkeel-theme"]


SHOWN = """([id, meta]) => {
    const chart = document.querySelector(`#${id} .js-plotly-plot`);
    return chart.data.find((trace) => trace.meta === meta).visible !== false;
}"""


def test_one_block_ahead_is_drawn_for_the_step_on_show_and_for_what_arrives(
    page: Page, push: Push, pre: SyntheticRun
) -> None:
    arrived = """(step) => {
        const chart = document.querySelector("#run-variance .js-plotly-plot");
        const length = (meta) => chart.data.find((trace) => trace.meta === meta).y.length;
        const onShow = document.getElementById("player").dataset.step === String(step);
        return onShow && length("ahead:0") === 7 && length("ahead_high:0") === 7;
    }"""
    open_run(page, pre, "?step=12")
    page.wait_for_function(arrived, arg=12)
    ahead = page.evaluate(TRACE, ["run-variance", "ahead:0"])
    measured = page.evaluate(TRACE, ["run-variance", "measured:0"])
    assert ahead[0] == pytest.approx(measured[0]) and ahead[1:] != measured[1:]

    page.locator("#player-follow").click()
    push(pre, range(40, 45), declare=False)

    page.wait_for_function(arrived, arg=44)


def test_legend_switches_curves_and_the_address_keeps_them(page: Page, pre: SyntheticRun) -> None:
    open_run(page, pre)
    assert not page.evaluate(SHOWN, ["run-variance", "today:0"])
    assert page.evaluate(SHOWN, ["run-variance", "ahead:0"])

    page.locator('[data-curve="today"]').click()
    page.locator('[data-curve="ahead"]').click()

    assert "curves=predicted,today" in page.url
    open_run(page, pre, "?curves=predicted,today")
    assert page.evaluate(SHOWN, ["run-gradient", "today:0"])
    assert not page.evaluate(SHOWN, ["run-gradient", "ahead_high:0"])
    expect(page.locator('[data-curve="ahead"]')).to_have_attribute("aria-pressed", "false")


def test_heatmap_compares_with_one_block_ahead_on_a_click(page: Page, pre: SyntheticRun) -> None:
    open_run(page, pre)
    expect(page.locator("#run-departures")).not_to_be_empty()

    page.locator('[data-against="ahead"]').click()

    page.wait_for_function(f"() => ({PAINTED})() > 0.6")
    assert "against=ahead" in page.url
