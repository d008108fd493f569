"""At the end of which step a process applies what the reduction of a sample has told it."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore

from trainer_agent.capture.guard import Guard
from trainer_agent.distributed import MultiProcess, agreement
from trainer_agent.distributed.agreement import DELAY_STEPS, Agreement


def job(*, fixed_interval: bool) -> tuple[MultiProcess, MultiProcess]:
    """Two processes of a job, in one."""
    store = HashStore()
    first, second = (
        MultiProcess(store, rank, 2, Guard(), fixed_interval=fixed_interval) for rank in (0, 1)
    )
    return first, second


def append(process: MultiProcess, *counts: int) -> None:
    """Agreements of as many samples, as the background thread appends them."""
    for n_commands in counts:
        process.agreements.append(Agreement(every=0, n_commands=n_commands))


@pytest.mark.parametrize("every", [1, 3, 8, 100])
def test_with_a_fixed_interval_a_command_is_applied_16_steps_after_its_sample(every: int):
    processes = job(fixed_interval=True)
    processes[0].broadcast(b"stop")
    expected = every * -(-DELAY_STEPS // every)

    for process in processes:
        applied = []
        append(process, *[1] * 100)
        for step in range(0, expected + 1, every):
            applied += [step] * len(process.end_step(step, sampled=True).due)
        assert applied == [expected]


def test_samples_are_counted_where_a_job_numbers_its_steps_all_alike(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(agreement, "TIMEOUT_S", 0.0)
    process, _ = job(fixed_interval=True)
    for _ in range(100):
        append(process, 0)
        process.end_step(5, sampled=True)

    untaken = range(100 - DELAY_STEPS, 100)
    assert process.agreements.take(99 - DELAY_STEPS, timeout_s=0.0) is None
    assert all(process.agreements.take(sample, timeout_s=0.0) is not None for sample in untaken)


@pytest.mark.parametrize("late_first", [True, False])
def test_a_process_too_late_for_a_command_is_not_left_out(
    late_first: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(agreement, "TIMEOUT_S", 0.0)
    processes = job(fixed_interval=True)
    processes[0].broadcast(b"stop")
    append(processes[0], 1)  # and process 1 does not have it yet

    due: dict[int, list[bytes]] = {0: [], 1: []}
    for step in range(0, DELAY_STEPS + 1, 4):
        for process in reversed(processes) if late_first else processes:
            due[process.rank] += process.end_step(step, sampled=True).due

    expected = [] if late_first else [b"stop"]
    assert due == {0: expected, 1: expected}
    append(processes[1], 1, 1, 1)
    assert processes[1].synchronized  # its samples are still reduced
    assert processes[1].agreements.take(0, timeout_s=0.0) is None  # nothing piles up


def test_with_a_budget_a_late_process_detaches_and_applies_what_the_others_do(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(agreement, "TIMEOUT_S", 0.0)
    processes = job(fixed_interval=False)
    processes[0].broadcast(b"stop")
    append(processes[0], 1)

    due = [
        [process.end_step(step, sampled=True).due for step in (0, 1, 2)][-1]
        for process in processes
    ]

    assert [process.synchronized for process in processes] == [True, False]
    assert due == [[b"stop"], [b"stop"]]
