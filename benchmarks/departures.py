"""What an open page's question for departures costs, as ratios within one run.

For runs of 24 layers with 400 and with 20,000 frames: ``GET /ahead`` after one more frame, which
computes what is new, over the same question at an earlier step, which is computed in full; and the
longer run's over the shorter one's.

    python -m benchmarks.departures
"""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx

from benchmarks.page import served
from benchmarks.synthetic_run import SyntheticRun, send, spec

LAYERS, LENGTHS, ROUNDS = 24, (400, 20_000), 15


def main() -> None:
    """Print a line for each length."""
    grown_of_shorter: float | None = None
    with served() as site:
        for length in LENGTHS:
            grown, full = asyncio.run(medians(site, length))
            beside = "" if grown_of_shorter is None else f", {grown / grown_of_shorter:.2f} of it"
            grown_of_shorter = grown_of_shorter or grown
            print(
                f"{length:>6} frames: after one more frame {1e3 * grown:.0f} ms, in full "
                f"{1e3 * full:.0f} ms, ratio {grown / full:.2f}{beside}",
                flush=True,
            )


async def medians(site: str, length: int) -> tuple[float, float]:
    """Seconds of the question after one more frame, and at an earlier step."""
    run = SyntheticRun.new(f"{length} frames", spec(LAYERS))
    grown, full = [], []
    async with httpx.AsyncClient(base_url=site, timeout=120) as http:
        await send(http, run, range(length))
        await stored(http, run, length - 1)
        await asked(http, run, length - 1)
        for turn in range(ROUNDS):
            step = length + turn
            await send(http, run, [step], declare=False)
            await stored(http, run, step)
            grown.append(await asked(http, run, step))
            full.append(await asked(http, run, length - 20 - turn))
    return statistics.median(grown), statistics.median(full)


async def stored(http: httpx.AsyncClient, run: SyntheticRun, step: int) -> None:
    """Return once the frame of that step is committed."""
    while True:
        answer = (await http.get(f"/api/v1/runs/{run.run_id}")).raise_for_status().json()
        if answer["last_step"] == step:
            return
        await asyncio.sleep(0.05)


async def asked(http: httpx.AsyncClient, run: SyntheticRun, step: int) -> float:
    """Seconds that the question takes."""
    started = time.perf_counter()
    (await http.get(f"/api/v1/runs/{run.run_id}/ahead", params={"step": step})).raise_for_status()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
