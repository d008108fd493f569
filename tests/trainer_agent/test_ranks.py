"""Jobs of two processes: one run, and its numbers those of the whole batch."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer_agent import distributed_job
from tests.trainer_agent.distributed_job import STEPS
from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import batch, built, loss_of
from trainer_agent.gradient_norm import gradient_norm

_processes = multiprocessing.get_context("forkserver")  # loads torch once for all of them
_processes.set_forkserver_preload(["tests.trainer_agent.distributed_job"])


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Where jobs that have run left what they found."""
    return {}


@pytest.fixture
def run(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Runs a job of two processes, each kind once; returns the folder it wrote to."""

    def once(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            run_job(kind, folders[kind])
        return folders[kind]

    return once


def run_job(kind: str, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        _processes.Process(target=distributed_job.main, args=(kind, rank, port, folder))
        for rank in range(distributed_job.WORLD)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0


def sent(folder: Path) -> dict[str, np.ndarray]:
    """What rank 0 sent: its first frame by series, its steps and its first failure."""
    assert not (folder / "frames-1.npz").exists()  # rank 0 speaks for both
    return {k.replace("|", "/"): v for k, v in np.load(folder / "frames-0.npz").items()}


def in_one_process(folder: Path) -> dict[str, np.ndarray]:
    """The same first step on the whole batch, by a plain agent, itself tested elsewhere."""
    model, optimizer = built()
    agent, transport = recorded(model, folder, optimizer=optimizer)
    loss = loss_of(model, batch(0, size=4))
    loss.backward()
    agent.step(loss=loss)
    agent.close()
    return {key: transport.series(key, at=0) for key in transport.declarations[0].layout.slices}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_numbers_are_those_of_the_whole_batch(
    kind: str, run: Callable[[str], Path], tmp_path: Path
) -> None:
    found, expected = sent(run(kind)), in_one_process(tmp_path)

    assert found["steps"].tolist() == list(range(STEPS))
    assert str(found["reason"]) == ""
    keys = [
        *(f"decoder/stream/{what}" for what in ("mean", "variance", "correlation")),
        *(f"decoder/stream_gradient/{what}" for what in ("variance", "correlation")),
        "decoder/attention_logits/max",
        "/loss/value",
        "/gradient_norm/value",
    ]
    for key in keys:
        wanted = expected[key]
        # float32 in another order, and correlations of gradients near zero
        largest = float(np.abs(wanted).max())
        np.testing.assert_allclose(found[key], wanted, rtol=2e-4, atol=2e-4 * largest, err_msg=key)


def test_ranks_agree_on_the_interval_of_a_budget(run: Callable[[str], Path]) -> None:
    found = sent(run("budget"))

    assert str(found["reason"]) == ""  # a step sampled by one rank alone would be named here
    assert found["steps"].tolist()[:4] == [0, 1, 2, 3]


def test_weights_are_bit_identical_and_one_rank_alone_holds_nobody_up(
    run: Callable[[str], Path],
) -> None:
    bare = np.load(run("bare") / "weights-1.npz")
    found = sent(run("alone"))

    assert "call watch in every process" in str(found["reason"])
    assert found["steps"].tolist() == list(range(STEPS))
    for kind in ("ddp", "alone"):
        watched = np.load(run(kind) / "weights-1.npz")
        assert all(np.array_equal(watched[name], bare[name]) for name in bare)


def test_the_norm_in_one_process_is_that_of_all_gradients() -> None:
    model, optimizer = built()
    loss_of(model, batch(1)).backward()

    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert float(gradient_norm(optimizer)) == pytest.approx(float(expected), rel=1e-5)
