"""A notebook's cell runs again: a new model, a new `watch`, and nobody has closed the former."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainer_agent
from tests.trainer_agent.small_gpt import batch, built, train_step
from trainer_agent import Agent


def watched(folder: Path, model: nn.Module, optimizer: Any, **options: Any) -> Agent:
    """An agent of which no server hears."""
    defaults = {
        "project": "p", "run": "r", "server": "http://127.0.0.1:9", "every": 1, "spool_dir": folder,
    }  # fmt: skip
    return trainer_agent.watch(model, optimizer=optimizer, **(defaults | options))


def senders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "evenkeel-sender"]


def trained(
    folder: Path, steps: int = 3, **options: Any
) -> tuple[Agent, nn.Module, torch.optim.Optimizer]:
    model, optimizer = built()
    agent = watched(folder, model, optimizer, **options)
    for step in range(steps):
        agent.step(loss=train_step(model, optimizer, batch(step)))
    return agent, model, optimizer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overhead": 0.01, "every": None},
        {"sites": "all", "quantities": "all"},
        {"on_alert": "skip_step"},
        {"batch": batch(0)[:, :-1]},
    ],
    ids=["plain", "parked hooks", "all sites", "skipped steps", "batch"],
)
def test_a_model_that_nobody_closed_is_freed_and_its_thread_ends(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    before = senders()
    agent, model, optimizer = trained(tmp_path, **options)
    thread = next(thread for thread in senders() if thread not in before)
    freed = [weakref.ref(model), weakref.ref(optimizer)]
    freed += [weakref.ref(part) for part in (*model.modules(), *model.parameters())]

    del model, optimizer
    gc.collect()
    agent.step(loss=1.0)
    agent.close(0.1)
    thread.join()

    assert [reference() for reference in freed if reference() is not None] == []
    assert agent._parts.guard.failures == 0


def test_a_model_freed_ends_its_run_as_finished(tmp_path: Path) -> None:
    agent, model, optimizer = trained(tmp_path)
    thread = senders()[-1]

    del model, optimizer
    gc.collect()
    agent._parts.sender._deadline = 0.0  # no server answers: do not wait for it
    thread.join()

    assert agent._closed


def test_watching_under_the_same_name_closes_the_former(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_agent.agent.FORMER_TIMEOUT_S", 0.0)
    former, model, _ = trained(tmp_path)
    elsewhere, *alive = trained(tmp_path, run="another")

    agent, *alive_too = trained(tmp_path)

    assert former._closed
    assert alive
    assert not elsewhere._closed
    assert alive_too
    assert not agent._closed
    assert not any(module._forward_hooks for module in model.modules())
    assert f"in the place of {former.url}" in capsys.readouterr().out
    agent.close(0.0)
    elsewhere.close(0.0)
    for thread in senders():
        thread.join()


def test_a_run_resumed_by_name_in_a_cell_that_runs_again_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_agent.agent.FORMER_TIMEOUT_S", 0.5)
    former, *alive = trained(tmp_path, resume="auto")

    agent, *alive_too = trained(tmp_path, resume="auto")

    assert alive
    assert alive_too
    assert agent.run_id == former.run_id
    assert former._closed
    assert not agent._closed
    agent.close(0.5)


def test_modules_listed_for_watch_alone_go_on_being_measured(tmp_path: Path) -> None:
    model, optimizer = built()
    agent = watched(tmp_path, nn.ModuleList([model]), optimizer)
    gc.collect()

    for step in range(2):
        agent.step(loss=train_step(model, optimizer, batch(step)))

    assert not agent._closed
    assert agent._parts.recorder.eager
    agent.close(0.5)
