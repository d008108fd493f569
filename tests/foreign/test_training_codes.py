"""The agent in other projects' training code: weights to the bit, true numbers, and no cry."""

from __future__ import annotations

import base64
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from tests.foreign.jobs import JOBS, STEPS, Watch
from tests.services.server import ServerProcess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(folder)
    yield process
    process.kill()


def wait_until_judged(run_id: str, database: Path) -> None:
    """Wait until the rules have seen every frame of a run."""
    deadline = time.monotonic() + 60
    query = "SELECT min(diagnosed) FROM marks WHERE run_id = ?"
    while time.monotonic() < deadline:
        with sqlite3.connect(database) as connection:
            (mark,) = connection.execute(query, (run_id,)).fetchone()
        if mark is not None and mark >= STEPS:
            return
        time.sleep(0.05)
    raise TimeoutError(f"run {run_id} was not judged")


def read(server: ServerProcess, path: str) -> Any:
    return httpx.get(f"{server.url}/api/v1{path}").raise_for_status().json()


@pytest.mark.parametrize("name", JOBS)
def test_training_code_of_others_stays_as_it_is_and_is_measured_right(
    name: str, server: ServerProcess, folder: Path, tmp_path: Path
) -> None:
    bare, watched = Watch(None, tmp_path / f"{name}-bare"), Watch(server.url, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        expected, weights = JOBS[name](bare), JOBS[name](watched)

    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[key], weights[key]) for key in expected)
    (run_id,) = [run["id"] for run in read(server, "/runs")["runs"] if run["name"] == name]
    wait_until_judged(run_id, folder / "data" / "evenkeel.db")
    alerts = read(server, f"/alerts?run={run_id}")["alerts"]
    assert [alert["title"] for alert in alerts if alert["severity"] != "info"] == []
    if watched.streams:
        (stack,) = read(server, f"/runs/{run_id}/profile")["stacks"].values()
        packed = base64.b64decode(stack["series"]["stream/variance_f32"])
        measured = np.frombuffer(packed, "<f4")[1:]
        direct = [outputs[-1].double().var(correction=0).item() for outputs in watched.streams]
        assert measured == pytest.approx(direct, rel=1e-4)
