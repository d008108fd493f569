"""No fork while a thread is inside SQLite."""

from __future__ import annotations

import os
import threading
from contextlib import ContextDecorator


class ForkLock(ContextDecorator):
    """Delays a fork until no thread is inside this lock.

    A child inherits SQLite's mutexes as they are. One that another thread held at that moment
    would stay locked in the child for ever, and with it every use of SQLite.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._lock.release,
            )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


no_fork = ForkLock()
