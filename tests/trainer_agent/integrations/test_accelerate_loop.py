"""A training loop on a real `Accelerator`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator

import trainer_agent
from tests.trainer_agent.integrations.arrivals import series, the_run
from tests.trainer_agent.receiving_server import Store
from tests.trainer_agent.small_gpt import batch, built, loss_of
from trainer_agent.integrations.accelerate import AcceleratedAgent, watch


class Job:
    """A loop as Accelerate's users write it."""

    def __init__(self, accumulated: int = 1, **options: Any) -> None:
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
        model, optimizer = built()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.agent: AcceleratedAgent = watch(
            self.accelerator, self.model, self.optimizer, project="p", run="r", every=1, **options
        )

    def train(self, batches: range) -> list[float]:
        """Train on these batches; returns their losses."""
        losses = []
        for number in batches:
            with self.accelerator.accumulate(self.model):
                loss = loss_of(self.model, batch(number))
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.agent.step(loss=loss)
            losses.append(loss.item())
        return losses


def test_accumulated_batches_are_one_step_of_their_mean_loss(store: Store) -> None:
    job = Job(accumulated=3)

    losses = job.train(range(6))
    job.agent.close()

    steps, measured = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1]
    assert measured[:, 0] == pytest.approx(np.reshape(losses, (2, 3)).mean(axis=1), rel=1e-5)


def test_the_prepared_optimizer_tells_rate_and_gradients(store: Store) -> None:
    job = Job()

    job.train(range(2))
    job.agent.close()

    _, rates = series(store, the_run(store), "/learning_rate/value")
    _, norms = series(store, the_run(store), "/gradient_norm/value")
    assert rates[:, 0] == pytest.approx(1e-3)
    assert (norms > 0).all()
    _, variance = series(store, the_run(store), "decoder/stream/variance")
    assert np.isfinite(variance).all()


def test_a_loaded_checkpoint_goes_on_with_its_run(store: Store, tmp_path: Path) -> None:
    first = Job()
    first.train(range(3))
    first.accelerator.save_state(str(tmp_path / "checkpoint"))
    first.train(range(3, 5))
    first.agent.close()

    second = Job()
    second.accelerator.load_state(str(tmp_path / "checkpoint"))
    second.train(range(3, 6))
    second.agent.close()

    steps, _ = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1, 2, 3, 4, 3, 4, 5]


def test_an_exception_ends_the_run_as_failed(store: Store) -> None:
    job = Job()

    with pytest.raises(ZeroDivisionError), job.agent:
        job.train(range(1))
        raise ZeroDivisionError("of my own")

    assert store.ends[the_run(store)].reason == "ZeroDivisionError: of my own"


@pytest.mark.parametrize("form", [lambda optimizer: optimizer, lambda optimizer: [optimizer]])
def test_the_plain_agent_takes_a_prepared_optimizer(store: Store, form: Any) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*built())
    agent = trainer_agent.watch(model, project="p", run="plain", optimizer=form(optimizer), every=1)

    for number in range(2):
        loss = loss_of(model, batch(number))
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        agent.step(loss=loss)
    agent.close()

    _, norms = series(store, the_run(store), "/gradient_norm/value")
    _, ratios = series(store, the_run(store), "decoder/updates/ratio")
    assert (norms > 0).all() and (ratios > 0).all()
