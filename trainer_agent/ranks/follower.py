"""What stands where the sender does in processes that bring their share and send nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from trainer_agent.guard import Guard


class Follower:
    """Stands where the sender does in processes that bring their share and send nothing."""

    dropped = resent = last_seq = 0
    page = ""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._queue: list[Callable[[], Any] | None] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, parcel: Any) -> None:
        """Take a sample; descriptions are rank 0's to send."""
        if hasattr(parcel, "values"):
            self._put(parcel.values)

    def close(self, end: object, *, timeout_s: float) -> bool:  # noqa: ARG002
        """Bring what is left; returns whether that was in time."""
        self._put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def resume(self, run_id: str, last_seq: int) -> bool:  # noqa: ARG002
        """Nothing is numbered here."""
        return True

    def settle(self, timeout_s: float) -> bool:  # noqa: ARG002
        """Nothing is kept here."""
        return True

    def _put(self, work: Callable[[], Any] | None) -> None:
        with self._wake:
            self._queue.append(work)
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evenkeel-ranks", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue)
                work = self._queue.pop(0)
            if work is None:
                return
            with self._guard.at("ranks"):
                work()
