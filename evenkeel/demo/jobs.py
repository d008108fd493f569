"""The demo's three training jobs."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from evenkeel.processes import stop_all

TRAIN_SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_byte_gpt.py"
VARIANTS = ("pre-ln", "post-ln", "post-ln-deepscale")


@dataclass
class Jobs:
    """The demo's training processes; each one's output goes to a file in `logs`."""

    logs: Path
    steps: int
    processes: dict[str, Popen[bytes]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    # Jobs start on the thread that waits for the server, and are stopped on another: without the
    # lock a job started at that very moment would be missed and train on.
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _reported: set[str] = field(default_factory=set)

    def start(self, url: str) -> None:
        """Start one job a variant."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for variant in VARIANTS:
            with self._starting:
                if not self.stopping.is_set():
                    self.processes[variant] = self._launch(variant, url)

    def _launch(self, variant: str, url: str) -> Popen[bytes]:
        command = [sys.executable, str(TRAIN_SCRIPT), "--variant", variant, "--server", url]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self._log(variant).open("wb") as log:
            job = Popen(
                [*command, "--project", "demo", "--steps", str(self.steps)],
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,  # a terminal's Ctrl-C reaches the demo alone, which ends the jobs
            )
        with suppress(OSError):  # at low priority, so that pages stay quick
            os.setpriority(os.PRIO_PROCESS, job.pid, 10)
        return job

    def _log(self, variant: str) -> Path:
        return self.logs / f"{variant}.log"

    def ends(self) -> list[str]:
        """A line for each job that has ended since the last call."""
        return [
            self._end(variant, job.returncode)
            for variant, job in self.processes.items()
            if job.poll() is not None and variant not in self._reported
        ]

    def _end(self, variant: str, status: int) -> str:
        self._reported.add(variant)
        return f"{variant}: {f'failed, see {self._log(variant)}' if status else 'finished'}"

    def stop(self) -> None:
        """End every job, and start no more."""
        with self._starting:
            self.stopping.set()
        stop_all(list(self.processes.values()))
