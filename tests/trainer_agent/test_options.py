"""`watch` refuses a bad argument at once, naming it and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import trainer_agent
from tests.trainer_agent.small_gpt import built
from trainer_agent.errors import WatchError

BAD = {
    "project": "",
    "run": 3,
    "server": "127.0.0.1:8321",
    "every": 0,
    "overhead": 1.5,
    "tags": "baseline",
    "config": {"model": object()},
    "spool_dir": "/proc/no/such",
    "spool_limit_bytes": 10,
    "rank": -1,
    "optimizer": "adam",
    "scaler": 65536.0,
}


@pytest.mark.parametrize("argument", BAD)
def test_watch_names_the_argument_and_the_fix(argument: str, tmp_path: Path) -> None:
    usable: dict[str, Any] = {"project": "p", "run": "r", "spool_dir": tmp_path}

    with pytest.raises(WatchError) as refusal:
        trainer_agent.watch(built()[0], **{**usable, argument: BAD[argument]})

    assert refusal.value.argument == argument
    assert refusal.value.fix in str(refusal.value)


def test_watch_takes_a_budget_or_an_interval_and_not_both(tmp_path: Path) -> None:
    with pytest.raises(WatchError, match="overhead: every=5 is given as well"):
        trainer_agent.watch(
            built()[0], project="p", run="r", spool_dir=tmp_path, every=5, overhead=0.01
        )


def test_watch_refuses_what_is_no_model() -> None:
    with pytest.raises(WatchError, match="model: function is no torch module"):
        trainer_agent.watch(lambda x: x, project="p", run="r")  # type: ignore[arg-type]


def test_a_refused_watch_leaves_the_model_alone() -> None:
    model, _ = built()

    with pytest.raises(WatchError):
        trainer_agent.watch(model, project="p", run="r", every=-1)

    assert not any(module._forward_hooks for module in model.modules())


def test_watch_reads_server_key_and_spool_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENKEEL_URL", "http://example.test:99/base/")
    monkeypatch.setenv("EVENKEEL_KEY", "ek_1")
    monkeypatch.setenv("EVENKEEL_SPOOL_DIR", str(tmp_path / "spool"))

    agent = trainer_agent.watch(torch.nn.Linear(2, 2), project="p", run="r")
    agent.close()

    assert capsys.readouterr().out == f"evenkeel: {agent.url}\n"
    assert agent.url == f"http://example.test:99/base/runs/{agent.run_id}"
    assert agent._options.key == "ek_1"
    assert (tmp_path / "spool").is_dir()


def test_public_names_are_those_documented() -> None:
    assert sorted(trainer_agent.__all__) == [
        "Agent",
        "Hint",
        "deepscale",
        "describe",
        "mean_field",
        "watch",
    ]
    assert all(callable(getattr(trainer_agent, name)) for name in trainer_agent.__all__)
    with pytest.raises(AttributeError, match="no attribute 'observe'"):
        trainer_agent.observe  # noqa: B018
