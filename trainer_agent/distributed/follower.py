"""What stands where the sender does in processes that bring their share and send nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from trainer_agent.capture.guard import Guard
from trainer_agent.distributed.background import Worker


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
