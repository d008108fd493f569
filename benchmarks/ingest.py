"""Points a second until durable through HTTP, beside two ceilings of the same run.

    python -m benchmarks.ingest [--database-url URL --redis-url URL]

A point is one float32 of a frame; a frame has 768 values, as a 24-layer model's has. *Parse only*
decodes and checks the same batches and stores nothing. *Raw insert* puts the same packed rows into
SQLite with the same durability (WAL, synchronous=FULL), one transaction a batch, without a server.
Every batch is fresh: nothing is answered from a duplicate.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from wire import (
    MEDIA_TYPE,
    Frame,
    FrameBatch,
    FramesReceipt,
    Health,
    Layout,
    RunDeclaration,
    Series,
    decode_batch,
    encode_batch,
)

VALUES = 768
FRAMES_A_BATCH = 64
SERVE = "from server.run import serve; from server.settings import Settings; serve(Settings())"
LAYOUT = Layout(
    (*(Series("decoder", "stream", f"q{n}", 24) for n in range(32)),),
)


def main() -> None:
    """Measure and print the table."""
    options = arguments()
    bodies = batches(options.frames)
    rows = [("parse only", parse(bodies)), ("raw SQLite insert", raw_insert(bodies))]
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), options) as port:
        for senders in (1, 4):
            name = f"HTTP until durable, {senders} sender{'s' * (senders > 1)}"
            rows.append((name, through_http(port, bodies, senders)))
    floor = dict(rows)["raw SQLite insert"]
    print(f"{options.frames} frames of {VALUES} values, {FRAMES_A_BATCH} a batch")
    for name, rate in rows:
        print(f"{name:32} {rate / 1e6:8.2f} M points/s   {rate / floor:6.2f} × raw insert")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=6400)
    parser.add_argument("--database-url")
    parser.add_argument("--redis-url")
    return parser.parse_args()


def batches(frames: int) -> list[bytes]:
    """Encoded batches of distinct frames."""
    values = np.random.default_rng(0).random((frames, VALUES), dtype=np.float32)
    made = [
        Frame.pack(seq=n + 1, step=n, time=float(n), layout=LAYOUT.hash, values=values[n])
        for n in range(frames)
    ]
    return [
        encode_batch(FrameBatch(0, start + 1, made[start : start + FRAMES_A_BATCH], Health()))
        for start in range(0, frames, FRAMES_A_BATCH)
    ]


def points(bodies: list[bytes]) -> int:
    """Number of values in these batches."""
    return sum(len(decode_batch(body).frames) for body in bodies) * VALUES


def parse(bodies: list[bytes]) -> float:
    """Points a second when batches are only decoded and checked."""
    start = time.perf_counter()
    for body in bodies:
        decode_batch(body)
    return points(bodies) / (time.perf_counter() - start)


def raw_insert(bodies: list[bytes]) -> float:
    """Points a second into a bare SQLite table of packed rows."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "raw.db")
        # the server's settings: without a sync per commit this would be no floor for it
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(
            "CREATE TABLE f (run, rank, seq, step, v BLOB, PRIMARY KEY (run, rank, seq))"
        )
        decoded = [decode_batch(body) for body in bodies]
        start = time.perf_counter()
        for batch in decoded:
            rows = [("r", 0, frame.seq, frame.step, frame.values) for frame in batch.frames]
            with database:
                database.executemany("INSERT INTO f VALUES (?, ?, ?, ?, ?)", rows)
        spent = time.perf_counter() - start
        database.close()
    return points(bodies) / spent


def through_http(port: int, bodies: list[bytes], senders: int) -> float:
    """Points a second until the last mark is durable; each sender has a run of its own."""
    runs = [uuid.uuid4().hex for _ in range(senders)]
    for run in runs:
        declaration = RunDeclaration(project="bench", name="ingest", layout=LAYOUT)
        _ask(http.client.HTTPConnection("127.0.0.1", port), "PUT", run, declaration)
    threads = [threading.Thread(target=_send, args=(port, run, bodies)) for run in runs]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return senders * points(bodies) / (time.perf_counter() - start)


def _send(port: int, run: str, bodies: list[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    last = decode_batch(bodies[-1]).frames[-1].seq
    mark = 0
    for body in bodies:
        mark = _post(connection, run, body)
    # a batch without frames asks for the mark alone
    heartbeat = encode_batch(FrameBatch(0, 1, [], Health()))
    while mark < last:  # on Redis the answer comes before the commit
        mark = _post(connection, run, heartbeat)


def _post(connection: http.client.HTTPConnection, run: str, body: bytes) -> int:
    while True:
        path = f"/api/v1/runs/{run}/frames"
        connection.request("POST", path, body, {"content-type": MEDIA_TYPE})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200:
            return msgspec.json.decode(content, type=FramesReceipt).durable
        if answer.status != 503:  # 503: the writer is behind, so send the batch again
            raise RuntimeError(f"{answer.status}: {content!r}")
        time.sleep(0.01)


def _ask(
    connection: http.client.HTTPConnection, method: str, run: str, body: RunDeclaration
) -> None:
    connection.request(method, f"/api/v1/runs/{run}", msgspec.json.encode(body))
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {content!r}")


@contextmanager
def server(folder: Path, options: argparse.Namespace) -> Iterator[int]:
    """A server process on a free port."""
    with server_process(folder, options) as (port, _):
        yield port


@contextmanager
def server_process(
    folder: Path, options: argparse.Namespace
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server on a free port, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"PORT": str(port), "DATA_DIR": str(folder), "HOST": "127.0.0.1"}
    settings |= {"DATABASE_URL": options.database_url} if options.database_url else {}
    settings |= {"REDIS_URL": options.redis_url} if options.redis_url else {}
    env = os.environ | {f"EVENKEEL_{name}": value for name, value in settings.items()}
    child = subprocess.Popen([sys.executable, "-c", SERVE], env=env)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if child.poll() is not None:
                raise RuntimeError("the server ended at its start")
            time.sleep(0.05)
        yield port, child
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main()
