"""Sends frames to a served site as an agent does, from a test whose own loop is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from benchmarks.synthetic_run import SyntheticRun, send

Push = Callable[..., None]


def pushing(site: str) -> Push:
    """A function that sends steps of a run, and returns once the run's prediction is ready."""

    async def speak(run: SyntheticRun, steps: range, **how: Any) -> None:
        async with httpx.AsyncClient(base_url=site, timeout=30) as http:
            await send(http, run, steps, **how)
            while (await predicted(http, run)) != "ready":
                await asyncio.sleep(0.02)

    async def predicted(http: httpx.AsyncClient, run: SyntheticRun) -> str:
        answer = await http.get(f"/api/v1/runs/{run.run_id}/predictions")
        return next((entry["state"] for entry in answer.json()["revisions"]), "none")

    def wait(run: SyntheticRun, steps: range, **how: Any) -> None:
        with ThreadPoolExecutor(1) as pool:  # playwright owns this thread's event loop
            pool.submit(lambda: asyncio.run(speak(run, steps, **how))).result(60)

    return wait
