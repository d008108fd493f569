"""Signals: who reacts to them, and that what was started ends whatever it does with them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.processes import interruptible, stop_all, unwound_by_sigterm

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # only a test that fails waits so long
SLEEP = "print('ready', flush=True)\nwhile True: signal.pause()"
OBEDIENT = """
try:
    print('ready', flush=True)
    while True: signal.pause()
except KeyboardInterrupt:
    sys.exit(3)
"""


class Child(subprocess.Popen[str]):
    """Python that runs `code` and ignores some signals.

    To wait for its end after such a signal times out at once: no test sits out the patience.
    """

    def __init__(self, code: str, *ignored: str) -> None:
        self.ignored = [signal.Signals[name] for name in ignored]
        self.request = 0
        ignore = [f"signal.signal(signal.{name}, signal.SIG_IGN)" for name in ignored]
        program = "\n".join(["import signal, sys", *ignore, code])
        with interruptible():
            super().__init__([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert self.stdout is not None
        with self.stdout as output:
            assert output.readline() == "ready\n"

    def send_signal(self, sig: int) -> None:
        self.request = sig
        super().send_signal(sig)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None and self.request in self.ignored:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return super().wait(timeout)


class Interrupted(Child):
    """The user presses Ctrl-C again while it is waited for."""

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None:
            raise KeyboardInterrupt
        return super().wait(timeout)


def test_every_process_ends_by_the_mildest_signal_that_it_heeds() -> None:
    processes = [Child(SLEEP, "SIGINT", "SIGTERM"), Child(SLEEP, "SIGINT"), Child(OBEDIENT)]

    stop_all(processes, patience_s=PATIENCE_S)

    ends = [process.returncode for process in processes]
    assert ends == [-signal.SIGKILL, -signal.SIGTERM, 3]


def test_exception_while_processes_are_stopped_kills_them_all() -> None:
    processes = [Interrupted(SLEEP, "SIGINT"), Child(SLEEP, "SIGINT")]

    with pytest.raises(KeyboardInterrupt):
        stop_all(processes, patience_s=PATIENCE_S)

    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


def test_child_started_where_interrupts_are_ignored_heeds_them(interrupts_ignored: None) -> None:
    process = Child(OBEDIENT)  # which enters `interruptible`

    stop_all([process], patience_s=PATIENCE_S)

    assert process.returncode == 3
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_end_from_outside_runs_what_is_to_be_run_first(name: str) -> None:
    code = f"""
import signal
from evenkeel.processes import unwound_by_sigterm
signal.signal(signal.{name}, signal.SIG_DFL)  # ignored where the tests run under nohup
with unwound_by_sigterm():
    try:
        signal.raise_signal(signal.{name})
    finally:
        print("tidied", flush=True)
print("survived", flush=True)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )

    assert (ended.stdout, ended.returncode) == ("tidied\n", -signal.SIGTERM)


def test_handlers_are_put_back_and_what_is_ignored_stays_ignored() -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGTERM)

    try:
        with unwound_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is not before
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGHUP, ignored)
