"""What rank 0 tells all processes of a job, which all of them do at one step, or none does."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

NEVER = b"never"


class Words:
    """Rank 0's words, in order, and which of them are taken.

    Processes learn with a sample how many words there are, and take them at the end of a later
    one. A process that cannot, because it was set apart or is too late, must not be the only one:
    so whoever first wants to take a word, or to take none any more, lays that down in the job's
    store, and it holds for all. The store is asked where there is a word, and once at the end.

    Attributes:
        over: whether no word is taken any more.
    """

    def __init__(self, store: Any) -> None:
        self.over = False
        self._store = store
        self._said: list[bytes] = []
        self._read = 0
        self._due: deque[tuple[int, bytes]] = deque()
        self._lock = threading.Lock()

    @property
    def said(self) -> int:
        """How many words this process has said: none where it is not rank 0."""
        return len(self._said)

    @property
    def promised(self) -> bool:
        """Whether a word that others have taken waits here for the step they took it at."""
        return bool(self._due)

    def say(self, word: bytes) -> bool:
        """Tell all processes something, with the next sample; False where it is too late for that.

        Called by rank 0, in any one thread.
        """
        self._store.set(f"word/{self.said}", word)
        with self._lock:  # or it could be said after `lost` was asked, and nobody would do it
            if self.over:
                return False
            self._said.append(word)
        return True

    def take(self, count: int, step: int) -> None:
        """Take the words before number `count`, at the end of this step, as all do."""
        while self._read < count and not self.over:
            self._settle(str(step).encode())

    def leave(self) -> None:
        """Take no more words but those that others have taken, now or at a step to come.

        Others may be some steps ahead: the host of a GPU does not wait for the other hosts.
        """
        while not self.over:
            self._settle(NEVER)

    def due(self, step: int) -> list[bytes]:
        """The words to be obeyed at the end of this step."""
        due = []
        while self._due and self._due[0][0] <= step:
            due.append(self._due.popleft()[1])
        return due

    def lost(self) -> list[bytes]:
        """What this process has said and nobody takes; each word is given once."""
        if not self.over:
            return []
        with self._lock:
            lost, self._read = self._said[self._read :], max(self._read, self.said)
        return lost

    def end(self) -> None:
        """Take no word any more, whatever others do: for a process that cannot ask them."""
        with self._lock:
            self.over = True

    def _settle(self, wish: bytes) -> None:
        """Lay down what happens to the next word, or find what another process has."""
        settled = self._store.compare_set(f"taken/{self._read}", "", wish.decode())
        if settled == NEVER:
            self.end()
            return
        self._due.append((int(settled), self._store.get(f"word/{self._read}")))
        self._read += 1
