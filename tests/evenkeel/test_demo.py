"""The demo as a user runs it: what it starts, and that all of it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from evenkeel.demo.command import announce
from evenkeel.demo.jobs import VARIANTS
from tests.services.process import wait_until

ROOT = Path(__file__).resolve().parents[2]
END_S = 120


@contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, killed with its jobs unless it has ended."""
    options = ["--port", "0", "--no-open", "--data-dir", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "evenkeel", "demo", *options],
        cwd=ROOT,
        env=os.environ | {"EVENKEEL_SPOOL_DIR": str(folder / "spool")},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for running in [*children(process), process]:
                    running.kill()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 0), ("SIGTERM", -signal.SIGTERM)])
def test_demo_in_the_background_ends_with_all_its_jobs(
    name: str, status: int, interrupts_ignored: None, tmp_path: Path
) -> None:
    with demo(tmp_path) as process:
        wait_until(lambda: len(children(process)) == len(VARIANTS), "three jobs have started")
        jobs = children(process)

        process.send_signal(signal.Signals[name])

        assert process.wait(END_S) == status
        assert [job for job in jobs if job.is_running()] == []


@pytest.mark.parametrize(("steps", "expected"), [(10, False), (600, True)])
def test_demo_says_what_to_look_for_if_it_trains_so_long(
    steps: int, expected: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    announce("http://127.0.0.1:1", tmp_path, steps)

    assert ("Post-LN collapses" in capsys.readouterr().out) is expected
