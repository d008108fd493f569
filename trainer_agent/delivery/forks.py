"""How often this process has come out of a fork: asked every sample, so without a system call."""

from __future__ import annotations

import os


class Forks:
    """Counts, in each process, the forks between it and the one that loaded this module.

    Attributes:
        count: 0 in that one, one more in its child.
    """

    def __init__(self) -> None:
        self.count = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.count += 1


forks = Forks()
