"""What is laid down for all processes of a job, by whoever ends the first step first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn
from torch.distributed import HashStore

from trainer_agent.distributed.rendezvous import Apart, Roster
from trainer_agent.distributed.store import Board
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import Plan, StackPlan


def plan(n: int, heads: int = 0) -> Plan:
    blocks = tuple(f"h.{i}" for i in range(n))
    return Plan((StackPlan("decoder", blocks, (None,) * n, (None,) * n, n_heads=heads),))


def entered(store: HashStore, stage: int, stages: int | None, size: int = 2) -> Roster:
    """A process that holds one stage of one block."""
    roster = Roster(store, Board(store), size)
    roster.enter(plan(1), (Chunk(nn.Identity(), stage=stage),), stages)
    return roster


def test_what_is_told_in_the_first_step_holds_for_all() -> None:
    store = HashStore()
    first, second = entered(store, 0, 2), entered(store, 1, 2)
    first.tell(plan(2, heads=4))
    second.tell(plan(3, heads=4))

    found, other = first.lay_down(), second.lay_down()

    assert found is not None and other == replace(found, own=(1,))
    assert [(one.blocks, one.heads) for one in found.outlines] == [
        ({"decoder": 2}, {"decoder": 4}),
        ({"decoder": 3}, {"decoder": 4}),
    ]


def test_what_is_told_after_it_is_laid_down_changes_it_for_nobody() -> None:
    store = HashStore()
    first, second = entered(store, 0, 2), entered(store, 1, 2)
    found = first.lay_down()
    second.tell(plan(3))

    other = second.lay_down()

    assert found is not None and other is not None and other.outlines == found.outlines


@pytest.mark.parametrize(
    ("watched", "reason"),
    [
        ([(0, 2)], "call watch in every process"),
        ([(0, 3), (1, 3)], "of 3 stages some are watched by no process"),
        ([(0, 1), (1, 2)], "the same number of stages in every process"),
    ],
)
def test_processes_that_do_not_belong_together_are_told_why(
    watched: list[tuple[int, int]], reason: str
) -> None:
    store = HashStore()
    rosters = [entered(store, *each) for each in watched]

    with pytest.raises(Apart, match=reason):
        for roster in rosters:
            roster.lay_down()
