"""What a job does about alerts: nothing unless its user asked, and never more than that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import batch, built, loss_of, train_step
from trainer_agent import watch
from trainer_agent.agent import Agent
from trainer_agent.commands.alert_actions import read_actions
from trainer_agent.errors import WatchError
from wire import AlertNotice, Command

CRITICAL = AlertNotice("nonfinite", "critical", "NaN in the stream", "At step 3 …", 3)
WARNING = AlertNotice("loss_divergence", "warning", "The loss is rising", "At step 4 …", 4)


def tell(agent: Agent, *alerts: AlertNotice) -> None:
    for number, alert in enumerate(alerts):
        agent._parts.dispatcher.dispatch(Command(f"{number}", "alert", alert=alert))


def test_by_default_a_job_is_told_of_no_alert_and_does_nothing(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=train_step(model, optimizer, batch(0)))
    agent.close()

    assert not transport.health.wants_alerts
    assert not agent.should_stop and not agent.should_save


def test_a_function_hears_every_alert_at_the_end_of_a_step(tmp_path: Path):
    heard: list[AlertNotice] = []
    model, _ = built()
    agent, transport = recorded(model, tmp_path, on_alert=heard.append)

    tell(agent, WARNING, CRITICAL)
    before = list(heard)
    agent.step(loss=1.0)
    agent.close()

    assert before == [] and heard == [WARNING, CRITICAL]
    assert transport.health.wants_alerts


def test_an_alert_is_acted_on_in_the_middle_of_a_long_interval(tmp_path: Path):
    heard: list[AlertNotice] = []
    model, _ = built()
    agent, _ = recorded(model, tmp_path, every=10_000, on_alert=heard.append)

    for _ in range(5):
        agent.step(loss=1.0)
    tell(agent, WARNING)
    agent.step(loss=1.0)
    agent.close()

    assert heard == [WARNING]


def test_a_function_that_fails_harms_nothing_and_is_counted(tmp_path: Path):
    def broken(alert: AlertNotice) -> None:
        raise RuntimeError("no such pager")

    model, _ = built()
    agent, transport = recorded(model, tmp_path, on_alert=[broken, "stop"])

    tell(agent, CRITICAL)
    agent.step(loss=1.0)
    agent.close()

    assert agent.should_stop
    assert "on_alert: RuntimeError: no such pager" in transport.health.first_failure


def test_stop_and_checkpoint_are_flags_raised_by_critical_alerts_alone(tmp_path: Path):
    model, _ = built()
    agent, _ = recorded(model, tmp_path, on_alert=["stop", "checkpoint"])

    tell(agent, WARNING)
    agent.step(loss=1.0)
    assert not agent.should_stop and not agent.should_save
    tell(agent, CRITICAL)
    agent.step(loss=1.0)

    assert agent.should_stop and agent.should_save
    assert agent.stop_reason.startswith("NaN in the stream: At step 3")
    agent.state_dict()  # the checkpoint that was asked for
    assert agent.should_stop and not agent.should_save
    agent.close()


def updated(model: Any, before: list[torch.Tensor]) -> bool:
    return any(not p.equal(b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("by_closure", [False, True])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_skip_step_leaves_weights_and_moments_where_gradients_are_broken(
    tmp_path: Path, broken: float, by_closure: bool
):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, on_alert="skip_step")
    agent.step(loss=train_step(model, optimizer, batch(0)))
    before = [p.detach().clone() for p in model.parameters()]
    counts = [int(optimizer.state[p]["step"]) for p in model.parameters()]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch(1)) * broken
        loss.backward()
        return loss

    if by_closure:
        loss = optimizer.step(closure)
    else:
        loss = closure()
        optimizer.step()
    agent.step(loss=loss)

    assert not updated(model, before)
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == counts
    agent.step(loss=train_step(model, optimizer, batch(2)))
    agent.close()
    assert updated(model, before)
    assert transport.series("/gradient_norm/value", at=1) != pytest.approx(0.0)
    assert not transport.health.wants_alerts


def test_skip_step_skips_a_norm_of_twenty_times_the_usual(tmp_path: Path):
    model, optimizer = built()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer, on_alert="skip_step")
    for step in range(33):
        agent.step(loss=train_step(model, optimizer, batch(step % 3)))
    before = [p.detach().clone() for p in model.parameters()]

    optimizer.zero_grad()
    (loss_of(model, batch(0)) * 1000).backward()
    optimizer.step()
    agent.close()

    assert not updated(model, before)


def test_after_close_nothing_is_skipped(tmp_path: Path):
    model, optimizer = built()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer, on_alert="skip_step")
    agent.close()

    (loss_of(model, batch(0)) * float("nan")).backward()
    optimizer.step()

    assert all(bool(p.isnan().any()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("argument", ["explode", 3, ["stop", "explode"]])
def test_an_action_that_is_none_is_refused(argument: Any):
    with pytest.raises(WatchError, match="on_alert") as refused:
        read_actions(argument)

    assert "stop" in refused.value.fix


def test_skip_step_without_an_optimizer_is_refused(tmp_path: Path):
    with pytest.raises(WatchError, match="optimizer"):
        watch(built()[0], project="p", run="r", spool_dir=tmp_path, on_alert="skip_step")
