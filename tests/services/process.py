"""A child process of a test: started, waited for, killed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

DEADLINE_S = 60.0
PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A port that nobody listens on at this moment.

    It lies below the ports that the system gives to outgoing connections, one of which might
    otherwise take it before the test does.
    """
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(claim: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until the claim holds; fail at the deadline."""
    deadline = time.monotonic() + deadline_s
    while not claim():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {deadline_s} s")
        time.sleep(0.02)


def as_user(name: str, command: Sequence[str]) -> list[str]:
    """The command as this user when we are root: Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return list(command)
    # setpriv becomes the command, so that a signal to our child reaches it.
    group = pwd.getpwnam(name).pw_gid
    return ["setpriv", f"--reuid={name}", f"--regid={group}", "--init-groups", *command]


def folder_of(name: str) -> Path:
    """A fresh folder that this user owns, outside pytest's, which only we may enter."""
    folder = Path(tempfile.mkdtemp(prefix="evenkeel-"))
    if os.geteuid() == 0:
        user = pwd.getpwnam(name)
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


class Process:
    """A command that runs until it is stopped."""

    def __init__(self, command: Sequence[str], log: Path, env: dict[str, str] | None = None):
        self._log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command, stdout=output, stderr=output, env=env, start_new_session=True
            )

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def wait_for_port(self, port: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until it accepts connections; if it never does, end it and fail with its log."""

        def ready() -> bool:
            if not self.alive():
                raise RuntimeError(f"ended at its start:\n{self._log.read_text()[-2000:]}")
            return answers(port)

        try:
            wait_until(ready, f"port {port} answers", deadline_s)
        except BaseException:
            self.kill()
            raise

    def send(self, number: int) -> None:
        """Send a signal to it and whatever it started."""
        os.killpg(self._child.pid, number)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and whatever it started, and wait."""
        if self.alive():
            os.killpg(self._child.pid, how)
        try:
            self._child.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait(DEADLINE_S)

    def kill(self) -> None:
        """End it as a crash would."""
        self.stop(signal.SIGKILL)


def remove(folder: Path) -> None:
    """Remove a folder of `folder_of`."""
    shutil.rmtree(folder, ignore_errors=True)
