"""The tab *Why* as somebody uses it: opened by a layer, by a departure, by its own buttons."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

import dslm
from benchmarks.synthetic_run import SyntheticRun, send
from tests.dslm.attribution.flows import drawn_spec

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("dashboard-browser")]

BLOCKS, STEPS, BROKEN = 4, 100, 96
DRAWN = "document.body.dataset.charts === 'drawn'"
LAYER = """([id, layer]) => {
    const chart = document.querySelector(`#${id} .js-plotly-plot`);
    const { l, t, w, h } = chart._fullLayout._size;
    const box = chart.closest(".plot").getBoundingClientRect();
    const [from, to] = chart.layout.xaxis.range;
    return [box.left + l + ((layer - from) / (to - from)) * w, box.top + t + h / 2];
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def described() -> SyntheticRun:
    """A run of 4 blocks, described at steps 60 and 90; from step 96 on its upper half is NaN."""
    return SyntheticRun.new("described", replace(_spec(1), flows={}))


def _spec(seed: int) -> dslm.ModelSpec:
    rng = np.random.default_rng(seed)
    return drawn_spec(rng, "pre", gated=True, crossed=False, n=BLOCKS)


@pytest.fixture
def run(site: str, described: SyntheticRun) -> SyntheticRun:
    with ThreadPoolExecutor(1) as pool:  # playwright owns this thread's event loop
        pool.submit(lambda: asyncio.run(_send(site, described))).result(60)
    return described


async def _send(site: str, run: SyntheticRun) -> None:
    async with httpx.AsyncClient(base_url=site, timeout=30) as http:
        await send(http, run, range(STEPS), broken_from=BROKEN)
        for step, seed in ((60, 1), (90, 2)):
            body = dslm.spec_to_json(_spec(seed))
            revision = {"step": step, "flows": body.pop("flows"), "spec": body}
            answer = await http.put(f"/api/v1/runs/{run.run_id}/spec", json=revision)
            answer.raise_for_status()
        while (await http.get(f"/api/v1/runs/{run.run_id}")).json()["last_step"] != STEPS - 1:
            await asyncio.sleep(0.02)


def open_run(page: Page, run: SyntheticRun, query: str = "") -> None:
    page.goto(f"/runs/{run.run_id}{query}")
    page.wait_for_function(DRAWN)


@pytest.mark.parametrize(
    ("chart", "layer", "block"),
    [
        ("run-variance", 3, 2),
        ("run-variance", 0, 0),
        ("run-gradient", 3, 3),
        ("run-gradient", 4, 3),
    ],
)
def test_click_on_a_layer_opens_why_for_the_block_that_makes_it(
    page: Page, run: SyntheticRun, chart: str, layer: int, block: int
) -> None:
    open_run(page, run, "?step=92")

    page.mouse.click(*page.evaluate(LAYER, [chart, layer]))

    expect(page.locator("#run-causes")).to_contain_text(f"Block {block}")
    expect(page.locator("#run-causes")).to_contain_text("step 90 against step 60")
    assert "tab=why" in page.url and f"block={block}" in page.url


def test_causes_of_a_block_add_up_and_a_sentence_names_the_largest(
    page: Page, run: SyntheticRun
) -> None:
    open_run(page, run, "?step=92&tab=why&block=1")
    table = page.locator("#run-causes .cause-parts").first
    table.wait_for()

    rows = table.locator("tbody tr").all()
    numbers = [
        [float(cell.replace("−", "-")) for cell in row.locator("td").all_inner_texts()]
        for row in rows
    ]

    np.testing.assert_allclose(np.sum(numbers[:-1], axis=0), numbers[-1], atol=0.01)
    expect(page.locator(".block-sentence")).to_contain_text("most of all by")


def test_buttons_go_to_the_next_block_and_to_all(page: Page, run: SyntheticRun) -> None:
    open_run(page, run, "?step=92&tab=why")
    page.get_by_role("button", name="Block by block").click()
    expect(page.get_by_role("heading", name="Block 0")).to_be_visible()

    page.get_by_role("button", name="The block above").click()

    expect(page.get_by_role("heading", name="Block 1")).to_be_visible()
    assert "block=1" in page.url
    page.get_by_role("button", name="All blocks").click()
    expect(page.get_by_role("heading", name="In words")).to_be_visible()
    assert "block=" not in page.url


def test_departure_explains_its_block_at_its_step(page: Page, run: SyntheticRun) -> None:
    open_run(page, run)

    page.get_by_role("button", name=f"Why: block 1 at step {BROKEN}").click()

    expect(page.get_by_role("heading", name="Block 1")).to_be_visible()
    expect(page.locator("#player")).to_have_attribute("data-step", str(BROKEN))


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_why_fits_the_window_in_both_themes(page: Page, run: SyntheticRun, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    open_run(page, run, "?step=92&tab=why&block=1")
    page.locator(".block-sentence").wait_for()

    for _ in range(2):
        assert page.evaluate(OVERFLOW) <= 0
        player = page.locator("#player-follow").bounding_box()
        assert player is not None and player["x"] + player["width"] <= width
        page.locator("#theme-toggle").click()


def test_depth_charts_say_how_far_the_run_is_from_initialisation(
    page: Page, run: SyntheticRun
) -> None:
    open_run(page, run, "?step=92")

    said = page.locator('[data-apart="variance:0"]')

    expect(said).to_have_text(re.compile(r"^×[\d.]+ of initialisation at layer \d$"))


def test_innovations_of_the_step_on_show_stand_beside_the_heatmap(
    page: Page, run: SyntheticRun
) -> None:
    filled = """(blocks) => {
        const { data } = document.querySelector("#run-innovations .js-plotly-plot");
        const [bars, low, high] = data.map((trace) => Array.from(trace.y));
        return bars.length === blocks && bars.every((value, i) => value > low[i] && value < high[i])
            ? bars : null;
    }"""
    open_run(page, run, "?step=92&heat=variance")
    before = page.wait_for_function(filled, arg=BLOCKS).json_value()

    page.keyboard.press("ArrowLeft")

    differs = (
        f"([blocks, before]) => {{ const y = ({filled})(blocks); return y && y[0] !== before; }}"
    )
    page.wait_for_function(differs, arg=[BLOCKS, before[0]])
