"""A job that begins while no server runs: what it says, and what a server that comes later gets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch

import trainer_agent
from tests.e2e.jobs import Server
from tests.services.process import free_port

PATIENCE_S = 60


def test_server_started_later_takes_in_what_waited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, spool = Server(tmp_path / "server", free_port()), tmp_path / "spool"
    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        agent = trainer_agent.watch(
            torch.nn.Linear(2, 2),
            project="p",
            run="r",
            server=server.url,
            spool_dir=spool,
            every=1,
        )
        for step in range(3):
            agent.step(loss=float(step))
        _wait(lambda: caplog.records)
        with server:
            frames = f"{server.url}/api/v1/runs/{agent.run_id}"
            _wait(lambda: httpx.get(frames).status_code == 200)
            agent.step(loss=3.0)
            assert agent.close(PATIENCE_S)
            run = httpx.get(frames).json()

    assert (run["frames"], run["last_step"]) == (4, 3)  # steps count from 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        f"evenkeel: no server answers at {server.url}; frames wait in {spool}; start one with "
        "`evenkeel serve` ("
    )


def _wait(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
