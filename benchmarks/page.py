"""The run page of a 48-layer run with 1,000 sampled steps, in headless Chromium.

Prints, beside their targets: first contentful paint; the time until every chart is drawn, with a
cold and a warm cache; the page's weight; the weight of a live update and its time from sending to
the changed picture, beside the round trip of a Dash callback; and the time of a scrubbing step.

    python -m benchmarks.page
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright

from benchmarks.synthetic_run import SyntheticRun, send, spec
from dashboard.app import mount
from server.app import create_app
from server.run import bind
from server.settings import Settings

LAYERS, STEPS, UPDATES = 48, 1000, 30
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
DRAWN = "document.body.dataset.charts === 'drawn'"
TIMES = """() => ({
    painted: performance.getEntriesByName('first-contentful-paint')[0].startTime,
    drawn: performance.getEntriesByName('evenkeel-charts-drawn')[0].startTime,
})"""
ASK_BLOCKS = """(step) => dash_clientside.set_props(
    'run-internals-step', { data: { step, stack: 'decoder' } })"""
SCRUB = """async () => {
    const slider = document.getElementById('player-slider');
    const bar = document.getElementById('player');
    const took = [];
    for (let index = 0; index < 60; index++) {
        const before = performance.now();
        slider.value = String(index * 16);
        slider.dispatchEvent(new Event('input'));
        const wanted = String(index * 16);
        while (bar.dataset.step !== wanted) await new Promise(requestAnimationFrame);
        took.push(performance.now() - before);
    }
    return took;
}"""


@contextmanager
def served() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), port=0, lost_contact_s=3600)
        app = create_app(settings)
        mount(app)
        with bind(settings) as listener:
            config = uvicorn.Config(app, log_level="error", lifespan="on", ws="websockets-sansio")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True
            thread.join()


def push(site: str, run: SyntheticRun, steps: range, **how: Any) -> None:
    async def speak() -> None:
        async with httpx.AsyncClient(base_url=site, timeout=60) as http:
            await send(http, run, steps, **how)
            while (await http.get(f"/api/v1/runs/{run.run_id}")).json()["frames"] < steps.stop:
                await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:  # playwright owns this thread's event loop
        pool.submit(lambda: asyncio.run(speak())).result()


class Traffic:
    """Bytes on the wire, HTTP and WebSocket, as Chromium counts them."""

    def __init__(self, session: CDPSession) -> None:
        self.http = 0
        self.socket = 0
        session.send("Network.enable")
        session.on("Network.loadingFinished", self._finished)
        session.on("Network.webSocketFrameReceived", self._received)

    def _finished(self, event: dict[str, Any]) -> None:
        self.http += int(event["encodedDataLength"])

    def _received(self, event: dict[str, Any]) -> None:
        self.socket += len(event["response"]["payloadData"])


def load(context: BrowserContext, address: str) -> tuple[Page, Traffic, dict[str, float]]:
    page = context.new_page()
    traffic = Traffic(context.new_cdp_session(page))
    page.goto(address)
    page.wait_for_function(DRAWN, timeout=60_000)
    return page, traffic, page.evaluate(TIMES)


def loads(browser: Browser, address: str, rounds: int = 3) -> None:
    cold, warm, weight = [], [], 0
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page, traffic, first = load(context, address)
        weight = traffic.http
        page.close()
        page, _, second = load(context, address)
        cold.append(first)
        warm.append(second)
        context.close()
    median = lambda times, name: statistics.median(load_times[name] for load_times in times) / 1000  # noqa: E731
    say("first contentful paint, cold", median(cold, "painted"), "s", "1.5 s")
    say("first contentful paint, warm", median(warm, "painted"), "s", "1.5 s")
    say("all charts drawn, cold", median(cold, "drawn"), "s", "4 s")
    say("all charts drawn, warm", median(warm, "drawn"), "s", "2.5 s")
    say("page weight, cold", weight / 1024, "KB")


def live(site: str, browser: Browser, run: SyntheticRun) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page, traffic, _ = load(context, f"{site}/runs/{run.run_id}")
    page.wait_for_function("document.body.dataset.history === 'complete'")
    before = traffic.http + traffic.socket
    ours = [_until_drawn(site, page, run, STEPS + i) for i in range(UPDATES)]
    spent = traffic.http + traffic.socket - before
    say("bytes per live update, all of them", spent / UPDATES / 1024, "KB", "5 KB")
    say("  of which over the WebSocket", traffic.socket / UPDATES / 1024, "KB")
    say("from sending to the changed picture, p50", statistics.median(ours), "s")
    say("from sending to the changed picture, p95", _p95(ours), "s", "1 s")
    through_dash = [_callback(page, STEPS + i) for i in range(UPDATES)]
    say("beside it: a Dash callback drawn by the server, p50", statistics.median(through_dash), "s")
    scrubbed = page.evaluate(SCRUB)
    say("scrubbing, one step drawn, p50", statistics.median(scrubbed), "ms")
    say("scrubbing, one step drawn, p95", _p95(scrubbed), "ms")
    context.close()


def _until_drawn(site: str, page: Page, run: SyntheticRun, step: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(_send_one(site, run, step))).result()
    page.wait_for_function(
        "(step) => Number(document.getElementById('player').dataset.step) >= step", arg=step
    )
    return time.perf_counter() - started


async def _send_one(site: str, run: SyntheticRun, step: int) -> None:
    async with httpx.AsyncClient(base_url=site, timeout=60) as http:
        await send(http, run, range(step, step + 1), declare=False)


def _callback(page: Page, step: int) -> float:
    """Time until the charts that the server draws, of the blocks, show a step."""
    page.evaluate("document.querySelector('[data-tab=internals]').hidden = true")
    started = time.perf_counter()
    page.evaluate(ASK_BLOCKS, step)
    page.wait_for_function(
        "(text) => (document.querySelector('.block-step') || {}).textContent === text",
        arg=f"at step {step:,}",
    )
    return time.perf_counter() - started


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def say(what: str, value: float, unit: str, target: str = "") -> None:
    goal = f"   target {target}" if target else ""
    print(f"{what:<48} {value:8.2f} {unit}{goal}")


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("this benchmark needs Chromium on the PATH")
    run = SyntheticRun.new("llama-48", spec(LAYERS))
    with served() as site, sync_playwright() as playwright:
        push(site, run, range(STEPS))
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        loads(browser, f"{site}/runs/{run.run_id}")
        live(site, browser, run)
        browser.close()


if __name__ == "__main__":
    main()
