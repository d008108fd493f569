"""Delay from `agent.step` to the changed picture, with three runs live.

    python -m benchmarks.live

Three of the examples' training jobs report to one server; a headless Chromium shows one of them.
A frame carries the time at which its step ended. The page's plots record when they were redrawn,
and a bare WebSocket client when the message arrived. One clock times all three. The message's
arrival is the floor: the delay beyond it is the browser's.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from playwright.async_api import Page, async_playwright
from websockets.asyncio.client import connect

from evenkeel.processes import interruptible, stop_all

TRAIN = Path(__file__).resolve().parents[1] / "examples" / "train_byte_gpt.py"
VARIANTS = ("pre-ln", "post-ln", "post-ln-deepscale")
WATCHED_S = 40.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
RECORD = """() => {
    window.redrawn = [];
    const chart = document.getElementById('run-gradient');
    const plot = chart.querySelector('.js-plotly-plot') || chart;
    plot.on('plotly_afterplot', () => window.redrawn.push(
        [Number(document.querySelector('#player').dataset.step), Date.now() / 1000]));
}"""


def main() -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as folder, processes(Path(folder)) as url:
        drawn, arrived, ended = asyncio.run(measure(url))
    report("message on a bare WebSocket", delays(arrived, ended))
    report("picture changed in Chromium", delays(drawn, ended))
    floor, picture = (np.percentile(delays(times, ended), 95) for times in (arrived, drawn))
    print(f"p95 of the picture is {picture / floor:.1f} times the floor; the bound is 1 s")


def report(name: str, seconds: list[float]) -> None:
    """Print one row: percentiles in milliseconds."""
    p50, p95, worst = np.percentile(seconds, [50, 95, 100]) * 1000
    line = f"p50 {p50:6.0f} ms   p95 {p95:6.0f} ms   max {worst:6.0f} ms"
    print(f"{name:30} {line}   ({len(seconds)} frames)")


def delays(arrivals: dict[int, float], ended: dict[int, float]) -> list[float]:
    """Seconds from the end of each step to its arrival."""
    return [arrivals[step] - ended[step] for step in arrivals if step in ended]


@contextmanager
def processes(folder: Path) -> Iterator[str]:
    """A server and three jobs; yields the server's URL."""
    serve = [sys.executable, "-m", "evenkeel", "serve", "--port", "0", "--data-dir", str(folder)]
    started: list[subprocess.Popen[str]] = []
    try:
        with interruptible():
            started.append(subprocess.Popen(serve, stdout=subprocess.PIPE, text=True))
            assert started[0].stdout is not None
            url = started[0].stdout.readline().split()[-1]
            started.extend(job(variant, url, folder) for variant in VARIANTS)
        yield url
    finally:
        stop_all(started[::-1])


def job(variant: str, url: str, folder: Path) -> subprocess.Popen[str]:
    """One training job, at the demo's low priority."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EVENKEEL_SPOOL_DIR": str(folder / "s")}
    command = [sys.executable, str(TRAIN), "--variant", variant, "--server", url]
    with (folder / f"{variant}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--steps", "100000"], env=environment, stdout=log, stderr=log, text=True
        )
    os.setpriority(os.PRIO_PROCESS, process.pid, 10)  # three jobs on few cores starve the page
    return process


async def measure(url: str) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """Times at which each step was drawn, arrived and ended, in seconds since the epoch."""
    run_id = await first_run(url)
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS
        )
        page = await chromium.new_page(viewport={"width": 1440, "height": 900})
        await page.goto(f"{url}/runs/{run_id}")
        await page.wait_for_function("document.body.dataset.charts === 'drawn'")
        arrived, ended = await listen(url, run_id, page)
        redrawn = await page.evaluate("window.redrawn")
        await chromium.close()
    shown: dict[int, float] = {}
    for step, at in redrawn:
        shown.setdefault(int(step), float(at))  # a step may be drawn again
    return shown, arrived, ended


async def listen(url: str, run_id: str, page: Page) -> tuple[dict[int, float], dict[int, float]]:
    """Watch the live messages beside the page for a while."""
    arrived: dict[int, float] = {}
    ended: dict[int, float] = {}
    address = f"{url.replace('http', 'ws', 1)}/api/v1/live?runs={run_id}"
    async with connect(address) as socket:
        await page.evaluate(RECORD)
        deadline = time.time() + WATCHED_S
        while time.time() < deadline:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] == "frame":
                arrived[message["step"]] = time.time()
                ended[message["step"]] = message["time"]
    return arrived, ended


async def first_run(url: str) -> str:
    """The id of a run once all three report."""
    async with httpx.AsyncClient(base_url=url) as client:
        while True:
            runs = (await client.get("/api/v1/runs")).json()["runs"]
            if len([run for run in runs if (run["last_step"] or 0) > 2]) == len(VARIANTS):
                return str(runs[0]["id"])
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    main()
