"""Commands of rank 0 that every process of a job applies at the end of the same step."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

NEVER = b"never"


class CommandBroadcast:
    """An ordered log of rank 0's commands, each applied by all processes or by none.

    The reduction of a sample carries the number of commands published so far. At the end of a
    later step, the same in all processes, each process schedules those commands for that step.
    The first process to do so writes the step to the job's store by compare-and-set. A process
    that stops listening writes `NEVER` instead. Whichever comes first holds for all processes;
    the others read it. So the store is asked once for each command, and once at the end.

    Attributes:
        closed: whether no further command is applied.
    """

    def __init__(self, store: Any) -> None:
        self.closed = False
        self._store = store
        self._published: list[bytes] = []
        self._resolved = 0
        self._scheduled: deque[tuple[int, bytes]] = deque()
        self._lock = threading.Lock()

    @property
    def published(self) -> int:
        """How many commands this process has published: 0 where it is not rank 0."""
        return len(self._published)

    @property
    def pending(self) -> bool:
        """Whether a command is scheduled for the end of a step to come."""
        return bool(self._scheduled)

    def publish(self, command: bytes) -> bool:
        """Publish a command with the next sample; False where no process would apply it.

        Called by rank 0, always from the same thread.
        """
        self._store.set(_command_key(self.published), command)
        # Without the lock a command could be published after `undelivered` was asked for the
        # last time, and nobody would ever hear of it.
        with self._lock:
            if self.closed:
                return False
            self._published.append(command)
        return True

    def schedule(self, count: int, step: int) -> None:
        """Schedule the first `count` commands for the end of this step, as all processes do."""
        while self._resolved < count and not self.closed:
            self._resolve(str(step).encode())

    def leave(self) -> None:
        """Apply no command but those that other processes have scheduled.

        Their step may still be to come: the host of a GPU runs ahead of the other hosts.
        """
        while not self.closed:
            self._resolve(NEVER)

    def due(self, step: int) -> list[bytes]:
        """The commands to apply at the end of this step; each is given once."""
        due = []
        while self._scheduled and self._scheduled[0][0] <= step:
            due.append(self._scheduled.popleft()[1])
        return due

    def undelivered(self) -> list[bytes]:
        """Commands of this process that no process applies; each is given once."""
        if not self.closed:
            return []
        with self._lock:
            commands = self._published[self._resolved :]
            self._resolved = max(self._resolved, self.published)
        return commands

    def close(self) -> None:
        """Apply no further command, whatever the others do: for when the store is gone."""
        with self._lock:
            self.closed = True

    def _resolve(self, proposal: bytes) -> None:
        """Write what becomes of the next command, or read what another process has written."""
        outcome = self._store.compare_set(f"scheduled/{self._resolved}", "", proposal.decode())
        if outcome == NEVER:
            self.close()
            return
        command = self._store.get(_command_key(self._resolved))
        self._scheduled.append((int(outcome), command))
        self._resolved += 1


def _command_key(number: int) -> str:
    return f"command/{number}"
