"""Whether a process still measures the model together with the other processes of its job."""

from __future__ import annotations

import threading

from trainer_agent.capture.guard import Guard
from trainer_agent.errors import ExplainedError


class SyncError(ExplainedError):
    """The processes of the job do not measure the same step of the same model."""


class Membership:
    """One process's place in its job; it ends once and never begins again.

    Attributes:
        active: whether the process reduces its samples with the others.
        changed: guards `active`, and the agreements that wait for it; notified as they change.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.active = True
        self.changed = threading.Condition()

    def detach(self, error: Exception) -> None:
        """Reduce no further sample with the others; called from any thread."""
        with self.changed:
            self.active = False
            self.changed.notify_all()
        self._guard.note("ranks", error)
