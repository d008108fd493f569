"""Signals of a command and of the processes it starts: react to them, and end for certain."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import Popen, TimeoutExpired
from typing import Any, NoReturn

PATIENCE_S = 8.0


class Terminated(BaseException):
    """SIGTERM came; as with KeyboardInterrupt, no `except Exception` stops it."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process, and the children started inside, even if it is ignored.

    A shell without job control starts what it puts into the background with SIGINT ignored, and
    children inherit that. For the main thread.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Run every `finally` inside when SIGTERM comes, then die of it. For the main thread.

    A closed terminal's SIGHUP counts as SIGTERM, unless it is ignored, as under ``nohup``.
    """
    handlers = {signal.SIGTERM: signal.signal(signal.SIGTERM, _raise_terminated)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Forwarded, not raised: only for SIGTERM has uvicorn a handler, and uvloop drops what a
        # handler raises.
        handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, _forward_to_sigterm)
    try:
        yield
    except Terminated:
        # Death by the signal itself is what a supervisor takes for a clean stop.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise_terminated(*_: Any) -> NoReturn:
    raise Terminated


def _forward_to_sigterm(*_: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


def stop_all(processes: Sequence[Popen[Any]], *, patience_s: float = PATIENCE_S) -> None:
    """End all of them and wait: SIGINT first, then SIGTERM, then SIGKILL, `patience_s` apart.

    An exception meanwhile, such as a second Ctrl-C, kills them at once.
    """
    try:
        for request in (signal.SIGINT, signal.SIGTERM):
            _signal_all(processes, request, patience_s)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _signal_all(
    processes: Sequence[Popen[Any]], request: signal.Signals, patience_s: float
) -> None:
    for process in processes:
        process.send_signal(request)
    deadline = time.monotonic() + patience_s
    for process in processes:
        with suppress(TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
