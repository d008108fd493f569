"""The processes of a walk: the server and the training jobs, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from evenkeel.processes import interruptible, stop_all

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "examples" / "train_byte_gpt.py"
SMALL = ("--width", "32", "--heads", "2", "--context", "32", "--batch", "8")
END_S = 60


class Server:
    """`evenkeel serve` in a process that can be killed and started again."""

    def __init__(self, data_dir: Path, port: int, *options: str) -> None:
        self.options = ["--port", str(port), "--data-dir", str(data_dir), *options]
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait for the line that says where it serves."""
        with interruptible():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "evenkeel", "serve", *self.options],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                text=True,
            )
        try:
            self._await_address(self.process)
        except BaseException:  # a time-out of the test as well: nobody else knows the process
            self.kill()
            raise

    def _await_address(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert self.url in line, f"the server's first line is {line!r}"

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        if self.process is not None:
            self.process.kill()
        self.stop()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        process, self.process = self.process, None
        if process is None:
            return
        stop_all([process], patience_s=END_S)
        assert process.stdout is not None
        process.stdout.close()


class Jobs:
    """The example's training script, small, in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def train(self, variant: str, server: str, *, steps: int = 100_000) -> None:
        """Start training a variant at 24 layers, watched by `server`."""
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "EVENKEEL_SPOOL_DIR": str(self.folder / "spool"),
        }
        command = [sys.executable, str(TRAIN), "--variant", variant, "--server", server]
        with (self.folder / f"{variant}.log").open("wb") as log, interruptible():
            job = subprocess.Popen(
                [*command, *SMALL, "--steps", str(steps)], stdout=log, stderr=log, env=environment
            )
        self.processes.append(job)
        os.setpriority(os.PRIO_PROCESS, job.pid, 10)  # as in the demo: pages come first

    def stop(self) -> None:
        """End every job."""
        stop_all(self.processes, patience_s=END_S)
