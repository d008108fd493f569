"""The demo as a user runs it: what it starts, and that all of it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from evenkeel.demo import VARIANTS
from tests.services.process import wait_until

ROOT = Path(__file__).resolve().parents[2]
END_S = 120


@contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, killed with all of it at the end."""
    options = ["--port", "0", "--no-open", "--data-dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "evenkeel", "demo", *options],
        cwd=ROOT,
        env=os.environ | {"EVENKEEL_SPOOL_DIR": str(folder / "spool")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 0), ("SIGTERM", -signal.SIGTERM)])
def test_demo_in_the_background_ends_with_all_its_jobs(
    name: str, status: int, interrupts_ignored: None, tmp_path: Path
) -> None:
    with demo(tmp_path) as process:
        logs = [tmp_path / "logs" / f"{variant}.log" for variant in VARIANTS]
        wait_until(lambda: all(log.exists() for log in logs), "three jobs have started")

        process.send_signal(signal.Signals[name])

        assert process.wait(END_S) == status
        with pytest.raises(ProcessLookupError):  # nobody is left in its group
            os.killpg(process.pid, 0)
