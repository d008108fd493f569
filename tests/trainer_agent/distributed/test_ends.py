"""A job of several processes ends as a whole, also when one of them fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.services.process import wait_until
from tests.trainer_agent.jobs import run_job


def one_fails(_kind: str, rank: int, _port: int, folder: Path) -> None:
    """Rank 0 fails; the other would wait for ever."""
    (folder / str(rank)).write_text(str(os.getpid()))
    if rank == 1:
        signal.pause()
    wait_until((folder / "1").exists, "the other has begun")
    raise SystemExit(1)


def test_processes_that_wait_for_one_that_failed_are_ended(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_job("any", tmp_path, main=one_fails)

    assert not psutil.pid_exists(int((tmp_path / "1").read_text()))
