"""The processes of a walk: the server and the training jobs, started as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "examples" / "train_byte_gpt.py"
SMALL = ("--width", "32", "--heads", "2", "--context", "32", "--batch", "8")
END_S = 20


class Server:
    """`evenkeel serve` in a process that can be killed and started again."""

    def __init__(self, data_dir: Path, port: int, *options: str) -> None:
        self.options = ["--port", str(port), "--data-dir", str(data_dir), *options]
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait for the line that says where it serves."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "evenkeel", "serve", *self.options],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert self.url in line, line

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(END_S)
        finally:
            process.kill()
            process.communicate()


class Jobs:
    """The example's training script, small, in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def train(self, variant: str, server: str, *, steps: int = 100_000) -> None:
        """Start training a variant at 24 layers, watched by `server`."""
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "EVENKEEL_SPOOL_DIR": str(self.folder / "spool"),
        }
        command = [sys.executable, str(TRAIN), "--variant", variant, "--server", server]
        with (self.folder / f"{variant}.log").open("wb") as log:
            job = subprocess.Popen(
                [*command, *SMALL, "--steps", str(steps)], stdout=log, stderr=log, env=environment
            )
        self.processes.append(job)

    def stop(self) -> None:
        """Interrupt every job and wait for it."""
        for job in self.processes:
            job.send_signal(signal.SIGINT)
        for job in self.processes:
            try:
                job.wait(END_S)
            finally:
                job.kill()
                job.wait()
