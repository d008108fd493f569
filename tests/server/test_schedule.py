"""The order in which runs are judged: no run waits for another's backlog, and none is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.diagnosis.schedule import (
    BACKLOGS_A_TURN,
    FRAMES_A_TURN,
    FRAMES_OF_A_NEW_RUN,
    RETRY_S,
    Schedule,
)


class Work:
    """Runs with so many frames each, judged as a worker does."""

    def __init__(self, frames: dict[str, int], diverged: frozenset[str] = frozenset()) -> None:
        self.schedule, self.left, self.diverged = Schedule(), dict(frames), diverged
        self.turns = 0
        for run_id in frames:
            self.schedule.note(run_id, 0.0)

    def turn(self) -> list[str]:
        """One turn; returns the runs that were judged."""
        shares = self.schedule.next()
        for share in shares:
            assert 0 < share.frames <= FRAMES_A_TURN
            self.left[share.run_id] = max(0, self.left[share.run_id] - share.frames)
            more = self.left[share.run_id] > 0
            diverged = share.run_id in self.diverged
            self.schedule.done(share.run_id, more=more, diverged=diverged)
        self.turns += 1
        return [share.run_id for share in shares]


def test_a_new_run_is_judged_within_two_turns_beside_backlogs():
    work = Work({f"long {n}": 40_000 for n in range(8)})
    for _ in range(5):
        work.turn()

    work.left["new"] = 2
    work.schedule.note("new", 1.0)
    judged = [*work.turn(), *work.turn()]

    assert "new" in judged
    assert work.left["new"] == 0


def test_backlogs_go_on_beside_runs_that_always_have_something_new():
    work = Work({"long": 4 * FRAMES_A_TURN})
    for n in range(20):
        work.left[f"new {n}"] = 1
        work.schedule.note(f"new {n}", 1.0)
        work.turn()

    assert work.left["long"] == 0


def test_backlogs_that_diverged_come_first_and_leave_a_place():
    diverged = frozenset(f"bad {n}" for n in range(9))
    work = Work({**dict.fromkeys(sorted(diverged), 9_000), "good": 9_000}, diverged)
    work.turn()

    turns = [work.turn() for _ in range(6)]

    assert all(len(turn) == BACKLOGS_A_TURN for turn in turns)
    assert all("good" in turn for turn in turns)


def test_a_run_that_cannot_be_judged_is_left_alone_for_a_while():
    schedule = Schedule()
    schedule.note("broken", 0.0)
    schedule.failed("broken", 0.0)

    schedule.note("broken", RETRY_S - 1)
    assert len(schedule) == 0
    schedule.note("broken", RETRY_S)
    assert [share.run_id for share in schedule.next()] == ["broken"]


def test_the_longest_wait_counts_from_when_a_run_was_noted_first():
    schedule = Schedule()
    schedule.note("a", 1.0)
    schedule.done("a", more=True)
    schedule.note("a", 5.0)

    assert schedule.longest_wait_s(9.0) == 8.0


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 3_000), max_size=80))
def test_every_frame_of_every_run_is_judged(frames: dict[str, int]):
    work = Work(frames)

    while len(work.schedule):
        work.turn()
        assert work.turns <= 2 * (2 + sum(1 + n // FRAMES_OF_A_NEW_RUN for n in frames.values()))

    assert not any(work.left.values())
