"""What a command is doing, on a terminal, once it takes longer than a second."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_S, EVERY_S = 1.0, 0.5


class _Line:
    """The line of one command: what it does now, and for how long."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._started, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take the line off the terminal."""
        self._ended.set()
        self._thread.join()

    def _show(self) -> None:
        if self._ended.wait(QUIET_S):
            return
        while True:
            seconds = time.monotonic() - self._started
            _write(f"evenkeel: {self.stage} ... {seconds:.0f} s")
            if self._ended.wait(EVERY_S):
                _write("")
                return


def _write(text: str) -> None:
    # back to the start and clear: the answer that follows begins on an empty line
    sys.stderr.write(f"\r\x1b[2K{text}")
    sys.stderr.flush()


_lines: list[_Line] = []  # the line that is shown, where there is one


@contextmanager
def progress(stage: str) -> Iterator[None]:
    """Show `stage`, or what `report` says later, while the body runs; nothing off a terminal."""
    if _lines or not sys.stderr.isatty():
        yield
        return
    _lines.append(_Line(stage))
    try:
        yield
    finally:
        _lines.pop().end()


def report(stage: str) -> None:
    """Say what the command does from now on."""
    for line in _lines:
        line.stage = stage
