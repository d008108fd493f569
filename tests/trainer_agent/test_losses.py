"""Which loss a frame holds: the one given, else the one that the model returned, else none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of_logits, train_step
from wire import is_absent


class Returning(nn.Module):
    """A model that computes its loss inside forward and returns it in one of the usual ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = SmallGPT(), how

    def forward(self, ids: Tensor) -> Any:
        logits = self.inner(ids[:, :-1])
        loss = loss_of_logits(logits, ids[:, 1:])
        return {
            "mapping": {"loss": loss, "logits": logits, "auxiliary": loss.detach()},
            "second": (logits, loss),
            "alone": loss,
        }[self.how]


def loss_in(output: Any) -> Tensor:
    if isinstance(output, dict):
        return output["loss"]
    return output[1] if isinstance(output, tuple) else output


def test_a_loss_given_every_other_step_is_absent_between(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    losses = [train_step(model, optimizer, batch(step)) for step in [0]]
    agent.step(loss=losses[0])
    for step in range(1, 4):
        loss = train_step(model, optimizer, batch(step))
        losses.append(loss)
        agent.step(**({"loss": loss} if step % 2 == 0 else {}))
    agent.close()

    values = [transport.series("/loss/value", at) for at in range(4)]
    assert [bool(is_absent(value).all()) for value in values] == [False, True, False, True]
    assert values[2][0] == pytest.approx(losses[2].item())


def test_a_loss_that_is_nan_is_nan_and_not_absent(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    train_step(model, optimizer, batch(0))
    agent.step(loss=torch.tensor(float("nan")))
    agent.close()

    loss = transport.series("/loss/value")
    assert np.isnan(loss).all()
    assert not is_absent(loss).any()


def test_a_name_given_at_a_later_step_is_absent_before(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for step in range(4):
        train_step(model, optimizer, batch(step))
        agent.step(**({"accuracy": 0.5} if step % 2 else {}))
    agent.close()

    assert is_absent(transport.series("/accuracy/value", 2)).all()
    assert transport.series("/accuracy/value", 3) == [0.5]


@pytest.mark.parametrize("how", ["mapping", "second", "alone"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_loss_that_the_model_returns_is_the_loss_where_none_is_given(
    tmp_path: Path, how: str, micro_batches: int
) -> None:
    model = Returning(how)
    agent, transport = recorded(model, tmp_path)

    losses = []
    for micro_batch in range(micro_batches):
        loss = loss_in(model(batch(micro_batch)))
        loss.backward()
        losses.append(loss.item())
    agent.step()
    agent.close()

    assert transport.series("/loss/value")[0] == pytest.approx(sum(losses) / micro_batches)


def test_a_loss_given_goes_before_one_returned(tmp_path: Path) -> None:
    model = Returning("alone")
    agent, transport = recorded(model, tmp_path)

    model(batch(0)).backward()
    agent.step(loss=7.0)
    agent.close()

    assert transport.series("/loss/value") == [7.0]
