"""How fast frames are judged, and how long an alert waits beside another run's backlog.

    python -m benchmarks.judging [--backlog 40000] [--database-url URL --redis-url URL]

One run's frames of 24 layers arrive faster than they are judged. While they wait, new runs send
two frames each, the second with NaN in its stream and loss; the latency is the time from its
request to the moment at which ``GET /api/v1/alerts`` shows the alert. Judged frames are counted in
a second of the server's own processor time, too: on a machine that does other work, seconds of the
clock say less.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.ingest import server_process
from benchmarks.synthetic_run import SyntheticRun, spec
from wire import MEDIA_TYPE, Frame, FrameBatch, Health, encode_batch

N_LAYERS = 24
FRAMES_A_BATCH = 200
EVERY_S = 0.5  # between two runs with NaN
PATIENCE_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
DISTINCT = 4000  # frames of different values; a longer backlog repeats them at later steps


@dataclass(frozen=True, slots=True)
class Judged:
    """Frames judged between two looks, and what they took."""

    frames: int
    wall_s: float
    processor_s: float


def main() -> None:
    """Measure and print the table."""
    options = arguments()
    run = SyntheticRun.new("backlog", spec(N_LAYERS))
    bodies = _bodies(run, options.backlog)
    with tempfile.TemporaryDirectory() as folder, server_process(Path(folder), options) as server:
        port, child = server
        client = Client(port)
        client.put(run.run_id, msgspec.json.encode(run.declaration()))
        with _probing(port) as latencies:
            started = time.perf_counter()
            for body in bodies:
                client.post(run.run_id, body)
            sent_s = time.perf_counter() - started
            judged = _until_judged(client, run.run_id, options.backlog, child)
    _print(options, sent_s, judged, sorted(latencies))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, default=40_000)
    parser.add_argument("--database-url")
    parser.add_argument("--redis-url")
    return parser.parse_args()


class Client:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def put(self, run: str, body: bytes) -> None:
        """Declare a run."""
        self._answer("PUT", f"/runs/{run}", body, {"content-type": "application/json"})

    def post(self, run: str, body: bytes) -> None:
        """Send frames until they are taken."""
        while not self._answer("POST", f"/runs/{run}/frames", body, {"content-type": MEDIA_TYPE}):
            time.sleep(0.02)

    def get(self, path: str) -> bytes:
        """An answer's body."""
        return self._answer("GET", path, b"", {})

    def _answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        self._connection.request(method, f"/api/v1{path}", body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status == 503:
            return b""
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content!r}")
        return content


def _bodies(run: SyntheticRun, count: int) -> list[bytes]:
    distinct = list(run.frames(range(min(count, DISTINCT))))
    frames = [
        Frame(n + 1, n, float(n), made.layout, made.values)
        for n in range(count)
        for made in [distinct[n % len(distinct)]]
    ]
    return [
        encode_batch(FrameBatch(0, start + 1, frames[start : start + FRAMES_A_BATCH], Health()))
        for start in range(0, count, FRAMES_A_BATCH)
    ]


@contextmanager
def _probing(port: int) -> Iterator[list[float]]:
    """Runs with NaN, one after the other, for as long as the context is open."""
    latencies: list[float] = []
    ending = threading.Event()

    def probe() -> None:
        client = Client(port)
        while not ending.wait(EVERY_S):
            latencies.append(_latency(client))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield latencies
    finally:
        ending.set()
        thread.join()


def _latency(client: Client) -> float:
    """Seconds until the alert of a new run's NaN can be read; `PATIENCE_S` if it cannot by then."""
    run = SyntheticRun("nan", spec(N_LAYERS), uuid.uuid4().hex)
    healthy, broken = run.frames(range(2), broken_from=1)
    values = broken.unpack().copy()
    values[run.layout.slices["/loss/value"]] = np.nan
    broken = msgspec.structs.replace(broken, values=values.tobytes())
    body = encode_batch(FrameBatch(0, 1, [healthy, broken], Health()))
    client.put(run.run_id, msgspec.json.encode(run.declaration()))
    started = time.perf_counter()
    client.post(run.run_id, body)
    while time.perf_counter() - started < PATIENCE_S:
        alerts = json.loads(client.get(f"/alerts?run={run.run_id}"))["alerts"]
        if any(alert["rule"] == "nonfinite" for alert in alerts):
            return time.perf_counter() - started
        time.sleep(0.02)
    return PATIENCE_S


def _until_judged(
    client: Client, run: str, count: int, child: subprocess.Popen[bytes]
) -> list[Judged]:
    """What was judged in each second until nothing is behind."""
    looks = []
    before = (_judged(client, run, count), time.perf_counter(), _processor_s(child))
    while before[0] < count:
        time.sleep(1.0)
        now = (_judged(client, run, count), time.perf_counter(), _processor_s(child))
        looks.append(Judged(now[0] - before[0], now[1] - before[1], now[2] - before[2]))
        before = now
    return looks


def _judged(client: Client, run: str, count: int) -> int:
    answer = json.loads(client.get(f"/runs/{run}"))
    return count - int(answer["unjudged"])


def _processor_s(child: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _print(
    options: argparse.Namespace, sent_s: float, judged: list[Judged], latencies: list[float]
) -> None:
    frames, wall = sum(j.frames for j in judged), sum(j.wall_s for j in judged)
    processor = sum(j.processor_s for j in judged)
    where = "Postgres and Redis" if options.database_url else "SQLite"
    print(f"{where}: {options.backlog} frames of {N_LAYERS} layers, sent in {sent_s:.1f} s")
    if frames:
        print(f"judged after that: {frames} in {wall:.1f} s, {frames / wall:.0f} frames/s;")
        print(f"  {frames / processor:.0f} frames in a second of the server's processor time")
    if latencies:
        p95 = latencies[min(len(latencies) - 1, int(0.95 * len(latencies)))]
        print(
            f"alert of a new run's NaN beside it, {len(latencies)} runs: p50 "
            f"{statistics.median(latencies):.2f} s, p95 {p95:.2f} s, slowest {latencies[-1]:.2f} s"
        )


if __name__ == "__main__":
    main()
