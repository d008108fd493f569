"""A job that starts again goes on with its run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer_agent
from tests.trainer_agent.delivery.test_arrival import watched
from tests.trainer_agent.receiving_server import Store, serving
from trainer_agent import Agent
from trainer_agent.delivery.spool import Spool
from trainer_agent.errors import WatchError

HEX = "0123456789abcdef" * 2


def train(agent: Agent, *steps: int) -> None:
    for step in steps:
        agent.step(loss=step, step=step)


def run_id(folder: Path, **options: Any) -> str:
    agent = watched("http://127.0.0.1:9", folder, **options)
    agent.close()
    return agent.run_id


def test_a_checkpoint_carries_the_run_and_its_step(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        first = watched(url, tmp_path)
        train(first, *range(5))
        state = first.state_dict()
        train(first, 5, 6)
        assert first.close()
        second = watched(url, tmp_path)
        second.load_state_dict(state)
        for _ in range(3):
            second.step(loss=0.0)
        assert second.close()

    frames = store.frames[first.run_id, 0]
    assert second.run_id == first.run_id == state["run_id"]
    assert [frames[seq].step for seq in store.seqs(first.run_id)] == [*range(7), 5, 6, 7]
    assert len(store.seqs(first.run_id)) == 10


def test_what_the_dead_process_left_arrives_before_the_resumed_steps(tmp_path: Path) -> None:
    store = Store(commits=False)
    with serving(store) as url:
        first = watched(url, tmp_path, resume=HEX)
        train(first, *range(4))
        assert not first.close(timeout_s=0.1)
        first._parts.sender._thread.join()
        store.frames.clear()
        store.order.clear()
        store.commits = True
        second = watched(url, tmp_path, resume=HEX)
        train(second, 2, 3, 4)
        assert second.close()

    frames = store.frames[HEX, 0]
    assert [frames[seq].step for seq in store.order] == [0, 1, 2, 3, 2, 3, 4]
    assert store.ends[HEX].status == "finished"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_begun_does_not_become_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    with serving(store) as url:
        agent = watched(url, tmp_path)
        before = agent.run_id
        agent.step(loss=1.0)
        with caplog.at_level(logging.WARNING, logger="evenkeel"):
            agent.load_state_dict({"run_id": HEX, "step": 9, "last_seq": 9})
            agent.load_state_dict({"nonsense": 1})
        agent.close()

    assert agent.run_id == before
    assert "before the first step" in caplog.text
    assert agent._parts.guard.failures == 1


def test_auto_means_the_run_of_this_project_and_name(tmp_path: Path) -> None:
    ids = [run_id(tmp_path, resume="auto", run=name) for name in ("a", "a", "b")]

    assert ids[0] == ids[1] != ids[2]
    assert ids[0] != run_id(tmp_path, resume="auto", run="a", project="other")


def test_the_environment_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_RUN_ID", HEX)
    by_id = run_id(tmp_path)
    monkeypatch.setenv("EVENKEEL_RUN_ID", "slurm-4711")
    by_name = [run_id(tmp_path, run=name) for name in ("a", "b")]

    assert by_id == HEX
    assert by_name[0] == by_name[1] != HEX


def test_two_models_of_a_process_do_not_share_a_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"project": "p", "run": "r", "resume": HEX, "spool_dir": tmp_path}
    model = torch.nn.Linear(2, 2)

    first = trainer_agent.watch(model, **options)
    with pytest.raises(WatchError, match="resume of its own"):
        trainer_agent.watch(torch.nn.Linear(2, 2), **options | {"run": "other"})
    first.close()
    trainer_agent.watch(model, **options).close()


def test_a_run_resumed_late_is_described_once(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        agent = watched(url, tmp_path)
        agent.load_state_dict({"run_id": HEX, "step": 5000, "last_seq": 1})
        for _ in range(4):
            agent.step(loss=1.0)

        assert agent._parts.describer._again_at > 5000
        agent.close()


def test_a_checkpoint_waits_until_its_steps_are_on_disk(tmp_path: Path) -> None:
    agent = watched("http://127.0.0.1:9", tmp_path)  # nobody listens there

    train(agent, *range(300))
    state = agent.state_dict()

    (path,) = tmp_path.glob("*.spool")
    spool = Spool(path, limit_bytes=1 << 20)
    frames = spool.read(after=0, max_frames=1000, max_bytes=1 << 20)
    spool.close()
    agent.close(timeout_s=0.1)
    assert [frame.step for frame in frames] == list(range(300))
    assert state["last_seq"] == 300
