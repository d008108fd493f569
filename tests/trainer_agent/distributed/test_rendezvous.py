"""What is decided for all processes of a job, by the first to end the first step."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from torch import nn
from torch.distributed import HashStore

from trainer_agent.distributed import rendezvous as rendezvous_module
from trainer_agent.distributed.membership import SyncError
from trainer_agent.distributed.rendezvous import Rendezvous
from trainer_agent.distributed.store import TextStore
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import Plan, StackPlan


def plan(n: int, heads: int = 0) -> Plan:
    blocks = tuple(f"h.{i}" for i in range(n))
    return Plan((StackPlan("decoder", blocks, (None,) * n, (None,) * n, n_heads=heads),))


def registered(
    store: HashStore, stage: int | None = None, n_stages: int | None = None, size: int = 2
) -> Rendezvous:
    """A process that holds one stage of one block, or the whole model."""
    rendezvous = Rendezvous(store, TextStore(store), size)
    rendezvous.register(plan(1), (Chunk(nn.Identity(), stage=stage),), n_stages)
    return rendezvous


def test_stages_announced_in_the_first_step_hold_for_all() -> None:
    store = HashStore()
    first, second = registered(store, 0, 2), registered(store, 1, 2)
    first.announce(plan(2, heads=4))
    second.announce(plan(3, heads=4))

    layout, other = first.decide(), second.decide()

    assert layout is not None and other == replace(layout, local_stages=(1,))
    assert [(stage.blocks, stage.heads) for stage in layout.stages] == [
        ({"decoder": 2}, {"decoder": 4}),
        ({"decoder": 3}, {"decoder": 4}),
    ]


def test_an_announcement_after_the_decision_changes_it_for_nobody() -> None:
    store = HashStore()
    first, second = registered(store, 0, 2), registered(store, 1, 2)
    layout = first.decide()
    second.announce(plan(3))

    other = second.decide()

    assert layout is not None and other is not None and other.stages == layout.stages


@pytest.mark.parametrize(
    ("watched", "reason"),
    [
        ([(0, 2)], "call watch in every process"),
        ([(0, 3), (1, 3)], "of 3 stages some are watched by no process"),
        ([(0, 1), (1, 2)], "the same number of stages in every process"),
    ],
)
def test_processes_that_do_not_belong_together_learn_why(
    watched: list[tuple[int, int]], reason: str
) -> None:
    store = HashStore()
    processes = [registered(store, *stages) for stages in watched]

    with pytest.raises(SyncError, match=reason):
        for process in processes:
            process.decide()


def answers(
    ready: list[bool], late: frozenset[int] = frozenset(), n_barriers: int = 1
) -> set[bool]:
    """What processes answer at a barrier, some of which come after the others have given up."""
    store, given_up = HashStore(), threading.Event()
    processes = [registered(store, size=len(ready)) for _ in ready]
    for process in processes:
        process.decide()

    def ask(rank: int) -> bool:
        if rank in late:
            assert given_up.wait(10)
        answer = [processes[rank].all_ready(ready[rank]) for _ in range(n_barriers)][-1]
        if rank not in late:
            given_up.set()
        return answer

    with ThreadPoolExecutor(len(ready)) as pool:
        return set(pool.map(ask, range(len(ready))))


def test_all_go_when_all_are_ready() -> None:
    assert answers([True, True, True]) == {True}


def test_each_barrier_has_an_answer_of_its_own() -> None:
    assert answers([True, True], n_barriers=3) == {True}


@pytest.mark.parametrize("unready", [0, 1, 2])
def test_no_process_goes_when_one_is_not_ready(unready: int) -> None:
    assert answers([rank != unready for rank in range(3)]) == {False}


def test_no_process_goes_when_one_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous_module, "BARRIER_TIMEOUT_S", 0.05)

    assert answers([True, True], late=frozenset({1})) == {False}


def test_a_process_whose_job_is_not_watched_as_a_whole_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Rendezvous, "_wait_for", lambda *_: pytest.fail("it waits for the others"))
    lonely = registered(HashStore())
    with pytest.raises(SyncError):
        lonely.decide()

    assert lonely.all_ready(True) is False
