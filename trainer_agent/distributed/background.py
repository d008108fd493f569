"""A daemon thread that does one piece of work after another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from trainer_agent.capture.guard import Guard

T = TypeVar("T")


class Worker:
    """Does what it is given, in order, in a thread that starts with the first piece.

    What the processes of a job do together has a thread of its own: the sender's may wait for a
    server that does not answer, and the other processes must not wait for that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: deque[Callable[[], None] | None] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` when all before it is done; never waits."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # whoever asks for the result has it
                future.set_exception(error)

        self._put(run)
        return future

    def close(self, timeout_s: float) -> bool:
        """Do what is left and end; returns whether that was in time."""
        self._put(None)
        assert self._thread is not None
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, work: Callable[[], None] | None) -> None:
        with self._wake:
            self._queue.append(work)
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue)
                work = self._queue.popleft()
            if work is None:
                return
            work()


class Follower:
    """Stands where the sender does in processes that bring their share and send nothing."""

    dropped = resent = last_seq = 0
    page = ""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._worker = Worker("evenkeel-ranks")

    def offer(self, parcel: Any) -> None:
        """Take a sample, or a part of a description; a whole one is rank 0's to send."""
        if hasattr(parcel, "content"):
            self._worker.submit(partial(self._bring, parcel.content))
        elif parcel.together:
            self._worker.submit(partial(self._bring, parcel.spec))

    def close(self, end: object, *, timeout_s: float) -> bool:  # noqa: ARG002
        """Bring what is left; returns whether that was in time."""
        return self._worker.close(timeout_s)

    def resume(self, run_id: str, last_seq: int) -> bool:  # noqa: ARG002
        """Nothing is numbered here."""
        return True

    def settle(self, timeout_s: float) -> bool:  # noqa: ARG002
        """Nothing is kept here."""
        return True

    def _bring(self, share: Callable[[], Any]) -> None:
        with self._guard.at("ranks"):
            share()
