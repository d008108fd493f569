"""Commands of rank 0: all processes apply them at the end of the same step, or none does."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore

from trainer_agent.distributed.broadcast import CommandBroadcast


@pytest.fixture
def logs() -> tuple[CommandBroadcast, CommandBroadcast]:
    """The command logs of rank 0 and of rank 1."""
    store = HashStore()
    return CommandBroadcast(store), CommandBroadcast(store)


Logs = tuple[CommandBroadcast, CommandBroadcast]


def test_commands_are_applied_in_order_by_all(logs: Logs):
    for command in (b"1", b"2", b"3"):
        logs[0].publish(command)

    for log in logs:
        log.schedule(2, step=7)

    assert [log.due(7) for log in logs] == [[b"1", b"2"]] * 2
    assert logs[0].undelivered() == []


@pytest.mark.parametrize("leaving", [0, 1])
def test_no_process_applies_a_command_where_one_leaves_first(leaving: int, logs: Logs):
    logs[0].publish(b"stop")

    logs[leaving].leave()
    logs[1 - leaving].schedule(1, step=7)

    assert [log.due(7) for log in logs] == [[], []]
    assert (logs[0].undelivered(), logs[0].undelivered()) == ([b"stop"], [])
    assert not logs[0].publish(b"too late")


@pytest.mark.parametrize("leaving", [0, 1])
def test_who_leaves_applies_what_others_have_scheduled_at_their_step(leaving: int, logs: Logs):
    logs[0].publish(b"stop")

    logs[1 - leaving].schedule(1, step=7)
    logs[leaving].leave()

    assert logs[leaving].pending and logs[leaving].due(6) == []
    assert logs[leaving].due(7) == logs[1 - leaving].due(7) == [b"stop"]
    assert not logs[leaving].pending and logs[0].undelivered() == []
