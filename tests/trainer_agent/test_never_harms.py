"""A guest breaks nothing: the job with the agent is the job without it."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import batch, built, loss_of, train_step
from trainer_agent.capture.statistics import tensor_sums


def weights_after(
    steps: int, watch: Callable[[Any, Any], Any] | None, **kwargs: Any
) -> list[Tensor]:
    model, optimizer = built(p_drop=0.2, **kwargs)
    agent = watch(model, optimizer) if watch else None
    torch.manual_seed(7)
    for step in range(steps):
        loss = train_step(model, optimizer, batch(step))
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_weights_after_50_steps_with_dropout_are_bit_identical(
    tmp_path: Path, checkpointing: bool | None
) -> None:
    bare = weights_after(50, None, checkpointing=checkpointing)
    watched = weights_after(
        50,
        lambda model, optimizer: recorded(model, tmp_path, optimizer=optimizer)[0],
        checkpointing=checkpointing,
    )

    assert all(
        torch.equal(weight, watched_weight)
        for weight, watched_weight in zip(bare, watched, strict=True)
    )


def test_random_states_are_untouched(tmp_path: Path) -> None:
    model, optimizer = built()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    agent, _ = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()

    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_a_failing_statistic_is_logged_once_counted_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(x: Tensor, mask: Tensor | None = None) -> Tensor:
        raise RuntimeError("no statistics today")

    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    monkeypatch.setattr(tensor_sums, "moment_row", broken)

    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        for step in range(12):
            agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    assert [record.message for record in caplog.records if "failed at" in record.message] == [
        "evenkeel failed at decoder/stream[0] and goes on without it (training is not affected): "
        "set the level of the logger evenkeel to DEBUG for the traceback"
    ]
    assert not any(record.exc_info for record in caplog.records)
    assert transport.health.first_failure.startswith("decoder/stream[0]: it could not be measured")
    assert "no statistics today" not in caplog.text + transport.health.first_failure
    assert transport.health.failures >= 10
    assert not any(block._forward_hooks for block in model.blocks)
    assert [frame.step for frame in transport.frames] == list(range(12))


def test_the_level_debug_shows_tracebacks_of_the_agents_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(x: Tensor, mask: Tensor | None = None) -> Tensor:
        raise RuntimeError("no statistics today")

    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    monkeypatch.setattr(tensor_sums, "moment_row", broken)

    with caplog.at_level(logging.DEBUG, logger="evenkeel"):
        agent.step(loss=train_step(model, optimizer, batch(0)))
    agent.close()

    assert "Traceback" in caplog.text
    assert transport.health.first_failure == "decoder/stream[0]: RuntimeError: no statistics today"


def test_step_takes_nonsense_for_not_given(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    agent.step(loss="high", accuracy=torch.zeros(3))
    agent.close()

    assert np.isnan(transport.series("/loss/value")[0])
    assert np.isnan(transport.series("/accuracy/value")[0])


def test_numbers_are_those_of_the_step_whatever_the_job_does_with_them_afterwards(
    tmp_path: Path,
) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    loss, accuracy, rate = torch.tensor(1.5), np.array(0.25), optimizer.param_groups[0]["lr"]

    agent.step(loss=loss, accuracy=accuracy)
    loss.fill_(7.0)
    accuracy.fill(7.0)
    optimizer.param_groups[0]["lr"] = 7.0
    agent.close()

    names = ("loss", "accuracy", "learning_rate")
    values = [transport.series(f"/{name}/value")[0] for name in names]
    assert values == pytest.approx([1.5, 0.25, rate])


def test_an_exception_in_forward_is_the_jobs_and_leaves_no_mode_behind(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    with pytest.raises(IndexError):
        model(torch.full((1, 4), 10_000))

    assert torch.overrides._get_current_function_mode() is None
    loss_of(model, batch(1)).backward()
    agent.step(loss=1.0)
    agent.close()
    assert np.isfinite(transport.series("decoder/stream/variance")).all()


def test_copies_and_pickles_of_a_watched_model_work_and_are_not_watched(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    for other in (copied, pickled):
        loss_of(other, batch(1)).backward()
    agent.step(loss=1.0)
    agent.close()

    assert np.isnan(transport.series("decoder/stream/variance")).all()
    assert transport.health.failures == 0


def test_a_pickled_model_loads_where_evenkeel_is_not_installed(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    agent, _ = recorded(model, tmp_path)
    stored = io.BytesIO()
    torch.save(model, stored)
    agent.close()

    assert b"trainer_agent" not in stored.getvalue()


def test_closing_takes_every_hook_away(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(1)))

    agent.close()

    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks


def test_a_run_that_raises_ends_as_failed_with_its_reason(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path)

    with pytest.raises(ZeroDivisionError), agent:
        agent.step(loss=train_step(model, optimizer, batch(1)))
        raise ZeroDivisionError("of my own")

    assert transport.ends[0].status == "failed"
    assert transport.ends[0].reason == "ZeroDivisionError: of my own"


def test_two_models_in_one_process_have_a_run_each(tmp_path: Path) -> None:
    first, second = built(seed=0)[0], built(seed=1)[0]
    agent, transport = recorded(first, tmp_path)
    other_agent, other = recorded(second, tmp_path)

    for model, its_agent in ((first, agent), (second, other_agent)):
        loss_of(model, batch(1)).backward()
        its_agent.step()
    agent.close()
    other_agent.close()

    assert agent.run_id != other_agent.run_id
    assert len(transport.frames) == len(other.frames) == 1
    assert not np.array_equal(
        transport.series("decoder/stream/variance"), other.series("decoder/stream/variance")
    )


def test_importing_the_package_loads_neither_torch_nor_a_server_library() -> None:
    code = "import trainer_agent, sys; print(*sorted(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"torch", "numpy", "http.client", "sqlite3"} & set(loaded)
