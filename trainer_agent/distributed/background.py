"""The thread in which a process reduces its samples, and the sender of ranks that only do that."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from trainer_agent.capture.guard import Guard
from trainer_agent.delivery.messages import Description, Message, Sample

T = TypeVar("T")


class BackgroundWorker:
    """Runs tasks one after the other, in a daemon thread that starts with the first.

    Reductions have a thread of their own because the sender's may wait for a server that does
    not answer, and the other processes must not wait for that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: deque[Callable[[], None] | None] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Run `task` after those submitted before it; never waits."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(task())
            except Exception as error:  # raised where the result is asked for
                future.set_exception(error)

        self._put(run)
        return future

    def close(self, timeout_s: float) -> bool:
        """Run what is left and end; returns whether that was in time."""
        self._put(None)
        assert self._thread is not None
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def begin_closing(self) -> None:
        """Run what is left and end; nobody waits for it."""
        if self._thread is not None:
            self._put(None)

    def _put(self, run: Callable[[], None] | None) -> None:
        with self._wake:
            self._queue.append(run)
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue)
                run = self._queue.popleft()
            if run is None:
                return
            run()


class ReduceOnlySender:
    """Stands in for the `Sender` on the ranks that reduce their samples and send nothing."""

    dropped = resent = last_seq = 0
    page = ""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._worker = BackgroundWorker("evenkeel-ranks")

    def offer(self, message: Message) -> None:
        """Take part in the reduction of a sample, or of a description of all processes."""
        if isinstance(message, Sample):
            self._worker.submit(partial(self._reduce, message.content))
        elif isinstance(message, Description) and message.together:
            self._worker.submit(partial(self._reduce, message.spec))

    def close(self, end: object, *, timeout_s: float) -> bool:
        """Reduce what is left; returns whether that was in time."""
        return self._worker.close(timeout_s)

    def begin_closing(self, end: object) -> None:
        """Reduce what is left, and end; nobody waits for it."""
        self._worker.begin_closing()

    def resume(self, run_id: str, last_seq: int) -> bool:
        """Accept any run: nothing is numbered here."""
        return True

    def settle(self, timeout_s: float) -> bool:
        """Nothing is kept on disk here."""
        return True

    def _reduce(self, reduction: Callable[[], Any]) -> None:
        with self._guard.at("ranks"):
            reduction()  # rank 0 sends the result
