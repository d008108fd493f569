"""Before a pass that gathers parameters: all processes are there and able, or none takes it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import distributed

from trainer_agent.capture.guard import Guard
from trainer_agent.distributed import reducer as group
from trainer_agent.distributed.reducer import Ranks
from trainer_agent.distributed.rendezvous import Roster
from trainer_agent.model.plan import Plan


def answers(able: list[bool], late: frozenset[int] = frozenset(), asked: int = 1) -> set[bool]:
    """What processes hear that come to ask, some of them after the others have given up."""
    store, given_up = distributed.HashStore(), threading.Event()
    ranks = [Ranks(store, rank, len(able), Guard()) for rank in range(len(able))]
    for one in ranks:
        one._store.add("watched", 1)
    with ThreadPoolExecutor(len(able)) as pool:
        list(pool.map(lambda one: one.decide(Plan(())), ranks))

        def ask(rank: int) -> bool:
            if rank in late:
                assert given_up.wait(10)
            said = [ranks[rank].all_able(able=able[rank]) for _ in range(asked)][-1]
            if rank not in late:
                given_up.set()
            return said

        return set(pool.map(ask, range(len(able))))


def test_all_go_when_all_are_able():
    assert answers([True, True, True]) == {True}


def test_asking_again_is_a_question_of_its_own():
    assert answers([True, True], asked=3) == {True}


@pytest.mark.parametrize("unable", [0, 1, 2])
def test_nobody_goes_when_one_is_not_able(unable):
    assert answers([rank != unable for rank in range(3)]) == {False}


def test_nobody_goes_when_one_is_too_late(monkeypatch):
    monkeypatch.setattr(group, "DECISION_TIMEOUT_S", 0.05)

    assert answers([True, True], late=frozenset({1})) == {False}


def test_processes_that_are_not_all_watched_do_not_wait(monkeypatch):
    monkeypatch.setattr(Roster, "_await", lambda *_: pytest.fail("it waits for the others"))
    lonely = Ranks(distributed.HashStore(), 0, 2, Guard())
    lonely.decide(Plan(()))

    assert lonely.all_able(able=True) is False
