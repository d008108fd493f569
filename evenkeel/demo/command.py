"""Serve, train, and print each alert as it comes, until interrupted."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path

from evenkeel.api import client_of
from evenkeel.demo.alert_lines import AlertLines
from evenkeel.demo.jobs import TRAIN_SCRIPT, Jobs
from evenkeel.processes import unwound_by_sigterm
from evenkeel.serving import run_server
from server.errors import StartError
from server.settings import Settings

TITLE = "Three 24-layer byte GPTs, same seed and data: Pre-LN, Post-LN, Post-LN with DeepScaleLM."
COLLAPSE_STEP = 30
EXPECTATION = f"""\
Within a minute, near step {COLLAPSE_STEP}, Post-LN collapses: all tokens of a sequence become one
vector, and next to no gradient reaches the lower layers. The other two learn.
Alerts, as they come:
"""
POLL_S = 1.0


def run_demo(settings: Settings, *, steps: int, open_page: bool) -> None:
    """Serve until interrupted, with the three jobs started once the server answers.

    Raises:
        StartError: if the server cannot start, or the example scripts are not there.
    """
    if not TRAIN_SCRIPT.is_file():
        raise StartError(
            "the demo trains examples/train_byte_gpt.py: run it from a checkout of the repository"
        )
    if settings.keys_required:
        raise StartError("the demo's jobs have no key: unset EVENKEEL_REQUIRE_KEYS")
    jobs = Jobs(settings.data_dir / "logs", steps)

    def begin(url: str) -> None:
        announce(url, settings.data_dir, steps)
        if open_page and has_screen():
            webbrowser.open(url)
        follow(jobs, url)

    with unwound_by_sigterm():
        try:
            # The jobs end first: a server that is still there learns that their runs have ended.
            run_server(settings, begin, before_exit=jobs.stop)
        finally:
            jobs.stop()


def announce(url: str, data_dir: Path, steps: int) -> None:
    """Print where to look, for what, and how to stop."""
    print(f"{TITLE}\n\n    {url}\n", flush=True)
    print(f"Runs are kept in {data_dir}. Ctrl-C stops the jobs and the server.", flush=True)
    if steps > COLLAPSE_STEP:
        print(EXPECTATION, flush=True)


def has_screen() -> bool:
    """Whether a browser window could be seen by somebody."""
    if sys.platform in {"darwin", "win32"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def follow(jobs: Jobs, url: str) -> None:
    """Start the jobs, and print their alerts and their ends until they are stopped."""
    with client_of(url, key=None) as client:
        alerts = AlertLines(client, url)
        jobs.start(url)
        while not jobs.stopping.wait(POLL_S):
            with suppress(StartError):  # a server too busy to answer is asked again
                print_lines(alerts.new())
            print_lines(jobs.ends())


def print_lines(lines: list[str]) -> None:
    """Print each at once, also into a pipe."""
    for line in lines:
        print(line, flush=True)
