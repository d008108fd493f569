"""Words of rank 0: all processes take them at the end of the same step, or none does."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore

from trainer_agent.capture.guard import Guard
from trainer_agent.distributed import Agreement, Hearing, Ranks
from trainer_agent.distributed import reducer as group
from trainer_agent.distributed.agreement import HEARD_AFTER_STEPS
from trainer_agent.distributed.broadcast import Words


@pytest.fixture
def pair() -> tuple[Words, Words]:
    """The words of rank 0 and of rank 1."""
    store = HashStore()
    return Words(store), Words(store)


@pytest.fixture
def ranks() -> tuple[Ranks, Ranks]:
    """Two processes of a job, in one."""
    store = HashStore()
    return Ranks(store, 0, 2, Guard()), Ranks(store, 1, 2, Guard())


def test_words_are_taken_in_order_by_all(pair: tuple[Words, Words]):
    for word in (b"one", b"two", b"three"):
        pair[0].say(word)

    for words in pair:
        words.take(2, step=7)

    assert [words.due(7) for words in pair] == [[b"one", b"two"]] * 2
    assert pair[0].lost() == []


@pytest.mark.parametrize("apart", [0, 1])
def test_a_word_is_lost_to_all_where_one_process_leaves_first(
    apart: int, pair: tuple[Words, Words]
):
    pair[0].say(b"stop")

    pair[apart].leave()
    pair[1 - apart].take(1, step=7)

    assert [words.due(7) for words in pair] == [[], []]
    assert (pair[0].lost(), pair[0].lost()) == ([b"stop"], [])
    assert not pair[0].say(b"too late")


@pytest.mark.parametrize("apart", [0, 1])
def test_who_leaves_takes_what_others_have_taken_at_their_step(
    apart: int, pair: tuple[Words, Words]
):
    pair[0].say(b"stop")

    pair[1 - apart].take(1, step=7)
    pair[apart].leave()

    assert pair[apart].promised and pair[apart].due(6) == []
    assert pair[apart].due(7) == pair[1 - apart].due(7) == [b"stop"]
    assert not pair[apart].promised and pair[0].lost() == []


def heard(of: Ranks, *words: int) -> None:
    """What the background thread hears with so many samples."""
    for count in words:
        of._keep(Agreement(every=0, words=count))


@pytest.mark.parametrize("every", [1, 3, 8, 100])
def test_with_a_fixed_interval_a_word_is_taken_16_steps_after_its_sample(
    every: int, ranks: tuple[Ranks, Ranks]
):
    ranks[0].words.say(b"stop")
    first = every * -(-HEARD_AFTER_STEPS // every)

    for one in ranks:
        hearing, taken = Hearing(one, fixed=True), []
        heard(one, *[1] * 100)
        for step in range(0, first + 1, every):
            hearing.step_over(step, sampled=True)
            taken += [step] * len(one.words.due(step))
        assert taken == [first]


def test_samples_are_counted_where_a_job_numbers_its_steps_all_alike(ranks: tuple[Ranks, Ranks]):
    hearing = Hearing(ranks[0], fixed=True)
    for _ in range(100):
        heard(ranks[0], 0)
        hearing.step_over(5, sampled=True)

    assert len(ranks[0]._agreed) == HEARD_AFTER_STEPS


@pytest.mark.parametrize("late_first", [True, False])
def test_a_process_too_late_for_a_word_is_not_left_out(
    late_first: bool, ranks: tuple[Ranks, Ranks], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(group, "DECISION_TIMEOUT_S", 0.0)
    ranks[0].words.say(b"stop")
    heard(ranks[0], 1)  # and rank 1 not yet
    hearings = [Hearing(one, fixed=True) for one in ranks]

    for step in range(0, HEARD_AFTER_STEPS + 1, 4):
        for hearing in reversed(hearings) if late_first else hearings:
            hearing.step_over(step, sampled=True)

    expected = [] if late_first else [b"stop"]
    assert [one.words.due(HEARD_AFTER_STEPS) for one in ranks] == [expected] * 2
    heard(ranks[1], 1, 1, 1)
    assert ranks[1].together and ranks[1]._agreed == {}  # numbers go on, nothing piles up


def test_with_a_budget_a_process_too_late_is_apart_and_takes_what_others_took(
    ranks: tuple[Ranks, Ranks], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(group, "DECISION_TIMEOUT_S", 0.0)
    ranks[0].words.say(b"stop")
    heard(ranks[0], 1)

    for one in ranks:
        hearing = Hearing(one, fixed=False)
        for step in (0, 1, 2):
            hearing.step_over(step, sampled=True)

    assert [one.together for one in ranks] == [True, False]
    assert [one.words.due(2) for one in ranks] == [[b"stop"]] * 2
