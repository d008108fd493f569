"""Settings and incidents as somebody walks through them: a real browser, server and receiver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from benchmarks.synthetic_run import SyntheticRun, spec
from tests.dashboard.pushing import Push
from tests.services.hook import Hook, hooking

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("dashboard-browser")]

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
AWAY = "http://127.0.0.1:9/hook"
VIOLATIONS = """async () => (await axe.run()).violations.map(
    ({ id, nodes }) => [id, ...nodes.slice(0, 3).map(({ html }) => html.slice(0, 160))])"""
SHAPES = """() => document.querySelector("#run-variance .js-plotly-plot").layout.shapes
    .map(({ x0, x1 }) => [x0, x1])"""
# Stands in for the window that the system would show; what a page asks of it is kept.
NOTIFICATIONS = """
    window.shown = [];
    window.Notification = class {
        static permission = "default";
        static async requestPermission() { return (this.permission = window.permits ?? "granted"); }
        constructor(title, options) { window.shown.push([title, options.tag]); }
    };
    document.hasFocus = () => false;
"""


@pytest.fixture
def hook() -> Iterator[Hook]:
    with hooking() as hook:
        yield hook


@pytest.fixture
def api(site: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{site}/api/v1", timeout=60) as client:
        yield client
        for channel in client.get("/channels").json()["channels"]:
            client.delete(f"/channels/{channel['id']}")
        for silence in client.get("/silences").json()["silences"]:
            client.delete(f"/silences/{silence['id']}")


def fault(push: Push, name: str) -> SyntheticRun:
    """A run whose stream is NaN from layer 3 on, from step 20 on."""
    run = SyntheticRun.new(name, spec(6))
    push(run, range(25), broken_from=20)
    return run


def add_channel(page: Page, name: str, url: str, **texts: str) -> Locator:
    """Fill in the form for a channel; returns the channel's row."""
    page.get_by_role("button", name="Add a channel").click()
    form = page.get_by_role("dialog")
    for label, text in {"Name": name, "URL": url, **texts}.items():
        form.get_by_label(label, exact=True).fill(text)
    form.get_by_role("button", name="Save").click()
    return page.locator("#channels tr").filter(has_text=name)


def card_of(page: Page, run: SyntheticRun) -> Locator:
    return page.locator('[data-testid="incident"]').filter(has_text=run.name)


def delivery_of(page: Page, run: SyntheticRun, channel: str) -> Locator:
    rows = page.locator("#deliveries tbody tr")
    return rows.filter(has_text=run.name).filter(has_text=channel)


def test_channel_is_added_tested_changed_and_deleted_and_never_shows_its_address(
    page: Page, api: httpx.Client, hook: Hook
) -> None:
    page.goto("/settings")
    expect(page.locator("#channels")).to_contain_text("No channel yet")
    channel = add_channel(page, "On call", hook.url)
    expect(channel).to_contain_text("webhook at http://127.0.0.1")

    hook.statuses = [403]
    channel.get_by_role("button", name="Test").click()
    expect(channel.locator(".answer")).to_have_text("answered 403: invalid_token")
    channel.get_by_role("button", name="Test").click()
    expect(channel.locator(".answer")).to_have_text("answered 200")
    assert [body["kind"] for body in hook.bodies] == ["test", "test"]
    answers = api.get("/channels").text + api.get("/deliveries").text
    assert "T0KEN" not in page.content() + answers

    channel.get_by_role("button", name="Edit").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name", exact=True).fill("Night shift")
    form.get_by_label("Sign webhooks").check()
    form.get_by_role("button", name="Save").click()
    secret = page.get_by_role("dialog").locator("code")
    expect(secret).to_have_text(re.compile("^whsec_.{40,}$"))
    page.get_by_role("button", name="Done").click()
    renamed = page.locator("#channels tr").filter(has_text="Night shift")
    expect(renamed).to_contain_text("signed")
    renamed.get_by_role("button", name="Test").click()
    expect(renamed.locator(".answer")).to_have_text("answered 200")

    renamed.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#channels")).to_contain_text("No channel yet")


# One of apprise's services imports it when they are loaded.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_form_says_what_is_wrong_beside_the_field_and_shows_an_example(
    page: Page, api: httpx.Client
) -> None:
    page.goto("/settings")
    page.get_by_role("button", name="Add a channel").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name", exact=True).fill("Chat")
    form.get_by_label("URL", exact=True).fill("slack://s3cr3t")
    form.get_by_label("Title", exact=True).fill("{severity}: {run}")
    form.get_by_role("button", name="Preview an example").click()
    expect(form.locator(".preview strong")).to_have_text("critical: gpt-24l")

    form.get_by_role("button", name="Save").click()
    expect(form.locator('[data-field="url"] .field-failure')).to_contain_text("apprise understands")
    assert "s3cr3t" not in form.inner_text()
    form.get_by_label("URL", exact=True).fill(AWAY)
    form.get_by_label("Title", exact=True).fill("{run.__class__}")
    form.get_by_role("button", name="Save").click()

    wrong = form.locator('[data-field="title_template"] .field-failure')
    expect(wrong).to_contain_text("is no name of a template")
    assert api.get("/channels").json()["channels"] == []


def test_route_leads_by_tag_and_a_dead_delivery_is_retried(
    page: Page, api: httpx.Client, hook: Hook, push: Push
) -> None:
    page.goto("/settings")
    expect(add_channel(page, "Everything", hook.url + "/all")).to_have_count(1)
    expect(add_channel(page, "Nightly", hook.url + "/nightly")).to_have_count(1)
    page.get_by_role("button", name="Add a route").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Channel").select_option("Nightly")
    form.get_by_label("Tag").fill("nightly")
    form.get_by_role("button", name="Add").click()
    expect(page.locator("#routes tbody tr")).to_contain_text(["nightly"])

    hook.statuses = [410]
    untagged = fault(push, "has-no-tag")
    dead = delivery_of(page, untagged, "Everything")
    expect(dead).to_contain_text("answered 410: invalid_token")
    expect(delivery_of(page, untagged, "Nightly")).to_have_count(0)
    page.get_by_label("Show").select_option("Dead")
    expect(page.locator("#deliveries tbody tr")).to_have_count(1)
    dead.get_by_role("button", name="Retry").click()
    page.get_by_label("Show").select_option("Every state")
    expect(dead).to_have_attribute("data-status", "delivered")

    tagged = SyntheticRun.new("has-a-tag", spec(6))
    push(tagged, range(5))
    api.patch(f"/runs/{tagged.run_id}", json={"tags": ["nightly"]}).raise_for_status()
    push(tagged, range(5, 12), declare=False, broken_from=8)
    expect(delivery_of(page, tagged, "Nightly")).to_have_attribute("data-status", "delivered")


def test_incident_is_noted_acknowledged_undone_resolved_and_its_timeline_says_so(
    page: Page, push: Push
) -> None:
    run = fault(push, "looked-into")
    page.goto("/alerts")
    card = card_of(page, run)

    card.get_by_role("button", name="Note").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("Ada looks into it")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(card).to_contain_text("Note. Ada looks into it")
    card.get_by_role("button", name="Acknowledge").click()
    expect(card).to_have_count(0)
    page.locator('[data-testid="undo"]').get_by_role("button", name="Undo").click()
    expect(card).to_have_attribute("data-incident-status", "open")
    card.get_by_role("button", name="Resolve").click()
    page.locator('[data-alerts-status="resolved"]').click()
    expect(card).to_have_attribute("data-incident-status", "resolved")
    card.get_by_role("button", name="Reopen").click()
    page.locator('[data-alerts-status="all"]').click()
    expect(card).to_have_attribute("data-incident-status", "open")

    card.locator("summary").click()
    lines = card.locator(".incident-timeline li").all_inner_texts()
    kinds = [line.split(": ")[1] for line in lines]
    assert [kind for kind in kinds if kind not in ("joined", "opened", "root is now")] == [
        "note", "acknowledged", "reopened", "resolved", "reopened",
    ]  # fmt: skip
    assert page.url.endswith("/alerts?status=all")


def test_incident_opens_its_run_at_its_step_with_its_layers_marked(page: Page, push: Push) -> None:
    run = fault(push, "leads-to-layers")
    page.goto("/alerts")

    card_of(page, run).get_by_text("from step 20").click()

    page.wait_for_function("document.body.dataset.charts === 'drawn'")
    expect(page.locator("#player")).to_have_attribute("data-step", "20")
    assert page.evaluate(SHAPES) == [[2.5, 6.5]]


def test_silence_is_made_from_a_card_listed_and_ended_early(
    page: Page, api: httpx.Client, hook: Hook, push: Push
) -> None:
    run = fault(push, "known-already")
    page.goto("/alerts")
    card = card_of(page, run)
    card.get_by_role("button", name="Silence").click()
    form = page.get_by_role("dialog")
    form.get_by_label("What").select_option(f"Run {run.name}")
    form.get_by_label("For", exact=True).select_option("8 hours")
    form.get_by_label("Why").fill("a test")
    form.get_by_role("button", name="Silence").click()
    page.locator(".toast").get_by_role("link", name="All silences").click()

    silence = page.locator("#silences tbody tr")
    expect(silence).to_contain_text([f"run {run.name}"])
    expect(add_channel(page, "Told late", hook.url)).to_have_count(1)
    push(SyntheticRun.new("other", spec(6)), range(25), broken_from=20)
    expect(page.locator("#deliveries tbody")).to_contain_text("other")
    silence.get_by_role("button", name="End now").click()
    expect(page.locator("#silences")).to_contain_text("Nothing is silenced.")
    assert api.get("/silences").json()["silences"] == []


def test_new_incident_reaches_a_page_of_another_run_and_the_browser_tells_it(
    page: Page, push: Push
) -> None:
    healthy = SyntheticRun.new("healthy", spec(6))
    push(healthy, range(5))
    page.add_init_script(NOTIFICATIONS)
    page.goto("/settings")
    assert page.evaluate("Notification.permission") == "default"
    page.evaluate("window.permits = 'denied'")
    page.get_by_role("button", name="Notify me in this browser").click()
    expect(page.locator("#browser")).to_contain_text("The browser refused.")
    page.evaluate("window.permits = 'granted'")
    page.get_by_role("button", name="Notify me in this browser").click()
    expect(page.locator("#browser")).to_contain_text("On.")
    page.add_init_script("Notification.permission = 'granted'")
    page.goto(f"/runs/{healthy.run_id}")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")

    run = fault(push, "elsewhere")

    expect(page.locator("#toasts .toast")).to_contain_text(["elsewhere, step 20"])
    ((title, tag),) = page.evaluate("window.shown")
    assert title == f"{run.name}: NaN or Inf in the residual stream"
    assert re.fullmatch("[0-9a-f]{32}", tag)


def test_own_rule_is_tried_on_a_run_then_kept(page: Page, api: httpx.Client, push: Push) -> None:
    run = SyntheticRun.new("tried-on", spec(6))
    push(run, range(40))
    losses = api.get(f"/runs/{run.run_id}/profile", params={"step": 39}).json()["scalars"]
    page.goto("/settings")
    page.get_by_role("button", name="Add a rule").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name", exact=True).fill("Loss is a number")
    form.get_by_label("Series").fill("loss")
    form.get_by_label("Value", exact=True).fill(str(losses["loss"] - 100))
    form.get_by_label("Opens after samples").fill("3")
    form.get_by_role("button", name="Save").click()
    expect(form.locator('[data-field="series"] .field-failure')).to_be_visible()
    form.get_by_label("Series").fill("/loss/value")
    form.get_by_label("Run", exact=True).select_option(run.name)

    form.get_by_role("button", name="Try on this run").click()
    expect(form.locator(".trial")).to_contain_text("1 alert in steps 0 to 39, 40 judged.")
    expect(form.locator(".trial li")).to_contain_text(["step 2"])
    form.get_by_role("button", name="Save").click()

    rule = page.locator("#rules tbody tr")
    expect(rule).to_contain_text(["Loss is a number"])
    rule.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#rules")).to_contain_text("No rule of your own yet.")


def test_section_that_cannot_be_read_says_so_and_recovers(page: Page, site: str) -> None:
    page.route("**/api/v1/channels", lambda asked: asked.abort())
    page.goto("/settings")
    section = page.locator("#channels")
    expect(section.get_by_role("alert")).to_contain_text("The server did not answer.")
    expect(page.locator("#silences")).to_contain_text("Nothing is silenced.")
    page.unroute("**/api/v1/channels")

    section.get_by_role("button", name="Try again").click()

    expect(section).to_contain_text("No channel yet")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_have_no_axe_violation_and_fit_their_window(
    page: Page, api: httpx.Client, push: Push, theme: Any, width: int
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci")
    run = fault(push, f"accessible-{theme}-{width}")
    api.post("/channels", json={"name": "On call", "url": AWAY}).raise_for_status()
    api.post("/silences", json={"rule": "loss_spike", "seconds": 600}).raise_for_status()
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    for address, ready in (
        ("/settings", "#silences table"),
        ("/alerts?status=all", f'article:has-text("{run.name}")'),
    ):
        page.goto(address)
        page.locator(ready).wait_for()
        page.add_script_tag(path=AXE)

        assert page.evaluate(VIOLATIONS) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_long_list_of_incidents_is_shown_in_parts(
    page: Page, api: httpx.Client, push: Push
) -> None:
    for number in range(12 - len(api.get("/incidents?limit=12").json()["incidents"])):
        fault(push, f"one-of-many-{number}")
    page.goto("/alerts?status=all")
    cards = page.locator('[data-testid="incident"]')
    expect(cards).to_have_count(10)
    ids = [row["id"] for row in api.get("/incidents?limit=20").json()["incidents"]]
    expect(cards.first).to_have_attribute("data-incident", ids[0])

    page.get_by_role("button", name="Older alerts").click()
    expect(cards.first).to_have_attribute("data-incident", ids[10])
    page.get_by_role("button", name="Newer alerts").click()

    expect(cards.first).to_have_attribute("data-incident", ids[0])
