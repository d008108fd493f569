"""Which runs are judged next: by turns those that wait for little, and backlogs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FRAMES_A_TURN = 512  # of all runs of a turn: an alert of another run waits that long at most
FRAMES_OF_A_NEW_RUN = 32  # a run that waits for more has a backlog
NEW_RUNS_A_TURN, BACKLOGS_A_TURN = 32, 4
RETRY_S = 30.0  # until a run whose frames could not be judged is tried again


@dataclass(frozen=True, slots=True)
class Share:
    """What one turn takes of a run: at most so many frames."""

    run_id: str
    frames: int


class Schedule:
    """Runs that wait to be judged.

    A run enters as new and is judged with others that are, a few frames each. Where more of it
    waits it has a backlog, and shares the following turn with others that have one, first those
    that have diverged. So a run's alert waits for two turns, however long the backlogs are; and
    of one run every frame is judged in the order in which it was made, on which the rules depend.
    """

    def __init__(self) -> None:
        self._new: dict[str, float] = {}  # by run, since when it waits
        self._backlogs: dict[str, float] = {}
        self._diverged: set[str] = set()
        self._failed: dict[str, float] = {}  # by run, until when it is left alone
        self._backlogs_next = False

    def __len__(self) -> int:
        return len(self._new) + len(self._backlogs)

    def note(self, run_id: str, now: float) -> None:
        """This run has frames that are not judged."""
        if run_id in self._new or run_id in self._backlogs or self._failed.get(run_id, now) > now:
            return
        self._failed.pop(run_id, None)
        self._new[run_id] = now

    def next(self) -> list[Share]:
        """The runs of the next turn; `done` or `failed` is called for each of them."""
        backlogs = self._backlogs_next if self._new and self._backlogs else bool(self._backlogs)
        self._backlogs_next = not backlogs
        if not backlogs:
            chosen = list(self._new)[:NEW_RUNS_A_TURN]
            return [Share(run_id, FRAMES_OF_A_NEW_RUN) for run_id in chosen]
        diverged = [run_id for run_id in self._backlogs if run_id in self._diverged]
        others = [run_id for run_id in self._backlogs if run_id not in self._diverged]
        # One place is for the others: runs that diverge do not keep them waiting for ever.
        chosen = [*diverged[: BACKLOGS_A_TURN - bool(others)], *others][:BACKLOGS_A_TURN]
        return [Share(run_id, FRAMES_A_TURN // len(chosen)) for run_id in chosen]

    def done(self, run_id: str, *, more: bool, diverged: bool = False) -> None:
        """A run was judged; whether more of it waits, and whether it has diverged."""
        since = self._new.pop(run_id, None)
        if since is None:
            since = self._backlogs.pop(run_id, None)
        self._diverged.discard(run_id)
        if more and since is not None:
            self._backlogs[run_id] = since  # behind the others that have one
            if diverged:
                self._diverged.add(run_id)

    def failed(self, run_id: str, now: float) -> None:
        """A run's frames could not be judged: others go on, and it is tried again later."""
        self.done(run_id, more=False)
        self._failed[run_id] = now + RETRY_S

    def longest_wait_s(self, now: float) -> float:
        """For how long the run that waits longest has frames that are not judged."""
        return max(
            (now - since for since in (*self._new.values(), *self._backlogs.values())), default=0.0
        )
