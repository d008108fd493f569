"""What all processes agreed on with a sample, and at the end of which step each applies it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from trainer_agent.capture.guard import Guard
from trainer_agent.distributed.broadcast import CommandBroadcast
from trainer_agent.distributed.membership import Membership

# With a budget the interval is agreed on as well, and samples are far apart.
DELAY_SAMPLES = 2
# A reduction takes milliseconds, and a step takes milliseconds at least. The delay counts steps
# and not samples: a burst samples every step where the interval is a thousand.
DELAY_STEPS = 16
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the reduction of a sample tells all processes.

    Attributes:
        every: the interval in steps that rank 0's budget asks for, 0 where it is fixed.
        n_commands: how many commands rank 0 had published by then.
    """

    every: int
    n_commands: int


class AgreementLog:
    """Agreements by sample number, from 0: written in the background, taken by training.

    Attributes:
        open: whether agreements are retained until the training thread takes them.
    """

    def __init__(self, membership: Membership, guard: Guard) -> None:
        self.open = True
        self._membership, self._guard = membership, guard
        self._agreements: dict[int, Agreement] = {}
        self._appended = 0

    def append(self, agreement: Agreement) -> None:
        """Retain the agreement of the next sample; in the background thread."""
        with self._membership.changed:
            if self.open:
                self._agreements[self._appended] = agreement
            self._appended += 1
            self._membership.changed.notify_all()

    def take(self, sample: int, timeout_s: float) -> Agreement | None:
        """The agreement of a sample; None where it does not come in time, or never."""

        def settled() -> bool:
            return sample in self._agreements or not self._membership.active

        with self._membership.changed:
            self._membership.changed.wait_for(settled, timeout_s)
            return self._agreements.pop(sample, None)

    def close(self, error: Exception) -> None:
        """Retain no further agreement; samples are still reduced."""
        with self._membership.changed:
            self.open = False
            self._agreements.clear()
        self._guard.note("ranks", error)


class AgreementSchedule:
    """Takes agreements and schedules the commands they announce. Runs in the training thread.

    With a budget an agreement is taken two samples later. With a fixed interval it is taken once
    its sample lies 16 steps or 16 samples back. Either follows from the numbers of the sampled
    steps alone, which are the same in all processes.

    With a fixed interval training waits 5 seconds in all for late agreements. Then the process
    goes on without commands, and its samples are still reduced. With a budget it cannot go on so,
    because its interval would no longer be that of the others: it detaches.
    """

    def __init__(
        self,
        log: AgreementLog,
        commands: CommandBroadcast,
        membership: Membership,
        *,
        fixed_interval: bool,
    ) -> None:
        self._log, self._commands, self._membership = log, commands, membership
        self._fixed_interval = fixed_interval
        self._waiting_steps: deque[int] = deque()  # sampled, and their agreements not yet taken
        self._taken = 0
        self._timeout_s = TIMEOUT_S

    def end_step(self, step: int, *, sampled: bool) -> Agreement | None:
        """Take what is due at the end of this step; returns the latest agreement taken."""
        membership, commands = self._membership, self._commands
        agreement = self._latest(step) if sampled and membership.active else None
        try:
            if agreement is not None:
                commands.schedule(agreement.n_commands, step)
            if not (membership.active and self._log.open):
                commands.leave()
        except Exception as error:  # the store is gone, and with it the job that it belongs to
            commands.close()
            membership.detach(error)
        return agreement

    def _latest(self, step: int) -> Agreement | None:
        self._waiting_steps.append(step)
        latest = None
        while self._is_due(step) and self._log.open:
            self._waiting_steps.popleft()
            latest = self._next() or latest
        return latest

    def _is_due(self, step: int) -> bool:
        if not self._fixed_interval:
            return len(self._waiting_steps) > DELAY_SAMPLES
        if not self._waiting_steps:
            return False
        # A job numbers its steps as it likes, even all alike: then the samples are counted.
        distant = abs(step - self._waiting_steps[0]) >= DELAY_STEPS
        return distant or len(self._waiting_steps) > DELAY_STEPS

    def _next(self) -> Agreement | None:
        began = time.perf_counter()
        agreement = self._log.take(self._taken, self._timeout_s)
        self._taken += 1
        if self._fixed_interval:
            self._timeout_s -= time.perf_counter() - began
        if agreement is None and self._membership.active:
            late = TimeoutError("the other processes are too late")
            (self._log.close if self._fixed_interval else self._membership.detach)(late)
        return agreement
