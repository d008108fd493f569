"""A user's first quarter of an hour, in a real browser, on real training jobs."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.jobs import Jobs, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420), pytest.mark.xdist_group("e2e")]

DRAWN = "document.body.dataset.charts === 'drawn'"
MEASURED = """(id) => {
    const plot = document.querySelector(`#${id} .js-plotly-plot`) || document.getElementById(id);
    return JSON.stringify(plot.data.map((trace) => Array.from(trace.y || [])));
}"""


def row(page: Page, name: str) -> str:
    return f'[data-testid="run-row"]:has-text("{name}")'


def test_run_list_to_live_page_to_scrubbing_to_comparison_to_alert(
    page: Page, server: Server, jobs: Jobs
) -> None:
    page.goto(server.url)
    expect(page.locator("#runs-empty")).to_contain_text("trainer_agent.watch")
    expect(page.locator("#runs-empty")).to_contain_text(server.url)

    jobs.train("pre-ln", server.url)
    jobs.train("post-ln", server.url)
    post_ln = page.locator('[data-testid="run-row"]').filter(has_text="Post-LN decoder")
    expect(post_ln).to_have_attribute("data-status", "running")
    expect(page.locator('[data-testid="suggested-comparison"]')).to_be_visible()

    post_ln.locator("a").first.click()
    page.wait_for_function(DRAWN)
    follows_live(page)
    scrubs(page)
    shows_the_alert(page)
    compares(page, server)
    acknowledges(page, server)


def follows_live(page: Page) -> None:
    first = int(page.locator("#player").get_attribute("data-step") or -1)
    before = page.evaluate(MEASURED, "run-gradient")
    page.wait_for_function(
        "(first) => Number(document.querySelector('#player').dataset.step) > first", arg=first
    )
    page.wait_for_function(f"(before) => ({MEASURED})('run-gradient') !== before", arg=before)
    assert page.locator("#player").get_attribute("data-following") == "true"


def scrubs(page: Page) -> None:
    page.locator("#player-slider").focus()
    page.keyboard.press("Home")
    expect(page.locator("#player")).to_have_attribute("data-following", "false")
    expect(page.locator("#player")).to_have_attribute("data-step", "0")
    at_start = page.evaluate(MEASURED, "run-gradient")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#player")).to_have_attribute("data-step", "1")
    assert page.evaluate(MEASURED, "run-gradient") != at_start
    assert "step=1" in page.url
    page.locator("#player-follow").click()
    expect(page.locator("#player")).to_have_attribute("data-following", "true")


def shows_the_alert(page: Page) -> None:
    card = page.locator('#run-alerts [data-testid="incident"]')
    fault = card.filter(has=page.get_by_role("heading", name="Rank collapse in layers"))
    expect(fault).to_be_visible(timeout=180_000)
    text = fault.inner_text()
    assert re.search(r"layers \d+–24", text)
    assert "predict" in text
    assert "DeepScaleLM" in text
    assert "0.9789" in text and "0.2041" in text


def compares(page: Page, server: Server) -> None:
    page.goto(server.url)
    badge = page.locator('[data-testid="run-row"]').filter(has_text="Post-LN decoder")
    expect(badge).to_contain_text("critical")
    page.locator('[data-testid="suggested-comparison"]').click()
    page.wait_for_function(DRAWN)
    for name in ("pre-ln", "post-ln", "Difference"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.keyboard.press("Home")
    expect(page.locator("#player")).to_have_attribute("data-step", "0")


def acknowledges(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/alerts")
    card = page.locator('[data-testid="incident"]').filter(has_text="Rank collapse in layers")
    expect(card).to_have_attribute("data-incident-status", "open")
    identity = card.get_attribute("data-incident")
    still_open = page.locator(f'[data-incident="{identity}"][data-incident-status="open"]')
    card.locator('[data-incident-action="acknowledge"]').click()
    expect(still_open).to_have_count(0)
    page.goto(f"{server.url}/alerts")
    expect(still_open).to_have_count(0)


def test_a_killed_server_comes_back_with_everything_and_the_page_says_so_meanwhile(
    page: Page, server: Server, jobs: Jobs
) -> None:
    jobs.train("pre-ln", server.url)
    page.goto(server.url)
    page.locator('[data-testid="run-row"] a').first.click()
    page.wait_for_function(DRAWN)

    server.kill()
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    step_before = int(page.locator("#player").get_attribute("data-step") or -1)
    server.start()

    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    page.wait_for_function(
        "(step) => Number(document.querySelector('#player').dataset.step) > step", arg=step_before
    )
    run_id = page.url.split("/runs/")[1].split("?")[0]
    steps = page.request.get(f"{server.url}/api/v1/runs/{run_id}/steps").json()["steps"]
    assert steps == list(range(len(steps)))


@pytest.mark.services
def test_run_page_lives_on_postgres_and_redis_as_well(
    page: Page, replicated: Server, jobs: Jobs
) -> None:
    jobs.train("post-ln", replicated.url)
    page.goto(replicated.url)
    page.locator('[data-testid="run-row"] a').first.click()
    page.wait_for_function(DRAWN)

    follows_live(page)
    scrubs(page)
    shows_the_alert(page)
