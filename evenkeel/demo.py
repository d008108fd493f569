"""The demo: three real training jobs beside the server they report to."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from evenkeel.processes import stop_all, unwound_by_sigterm
from evenkeel.serving import run_server
from server.errors import StartError
from server.settings import Settings

TRAIN_SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_byte_gpt.py"
VARIANTS = ("pre-ln", "post-ln", "post-ln-deepscale")
TITLE = "Three 24-layer byte GPTs, same seed and data: Pre-LN, Post-LN, Post-LN with DeepScaleLM."


def run_demo(settings: Settings, *, steps: int, open_page: bool) -> None:
    """Serve until interrupted, with the three jobs started once the server answers.

    Raises:
        StartError: if the server cannot start, or the example scripts are not there.
    """
    if not TRAIN_SCRIPT.is_file():
        raise StartError(
            "the demo trains examples/train_byte_gpt.py: run it from a checkout of the repository"
        )
    jobs = Jobs(settings.data_dir / "logs", steps)

    def begin(url: str) -> None:
        announce(url, settings.data_dir)
        if open_page and has_screen():
            webbrowser.open(url)
        jobs.start(url)
        jobs.report_ends()

    with unwound_by_sigterm():
        try:
            run_server(settings, begin)
        finally:
            jobs.stop()


def announce(url: str, data_dir: Path) -> None:
    """Print where to look and how to stop."""
    print(f"{TITLE}\n\n    {url}\n", flush=True)
    print(f"Runs are kept in {data_dir}. Ctrl-C stops the jobs and the server.", flush=True)


def has_screen() -> bool:
    """Whether a browser window could be seen by somebody."""
    if sys.platform in {"darwin", "win32"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@dataclass
class Jobs:
    """The demo's training processes; each one's output goes to a file in `logs`."""

    logs: Path
    steps: int
    processes: dict[str, Popen[bytes]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    # Jobs start on the thread that waits for the server, and are stopped on the main one: without
    # the lock a job started at that very moment would be missed and train on.
    starting: threading.Lock = field(default_factory=threading.Lock)

    def start(self, url: str) -> None:
        """Start one job a variant."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for variant in VARIANTS:
            with self.starting:
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
            )
        with suppress(OSError):  # at low priority, so that pages stay quick
            os.setpriority(os.PRIO_PROCESS, job.pid, 10)
        return job

    def _log(self, variant: str) -> Path:
        return self.logs / f"{variant}.log"

    def report_ends(self) -> None:
        """Say of each job that it ended, and where to read why when it failed."""
        pending = dict(self.processes)
        while pending and not self.stopping.wait(0.5):
            for variant, job in list(pending.items()):
                if job.poll() is None:
                    continue
                del pending[variant]
                failed = f"failed, see {self._log(variant)}"
                print(f"{variant}: {failed if job.returncode else 'finished'}", flush=True)

    def stop(self) -> None:
        """End every job, and start no more."""
        with self.starting:
            self.stopping.set()
        stop_all(list(self.processes.values()))
