"""A real `transformers.Trainer` with the callback, sending to a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)

from tests.trainer_agent.integrations.arrivals import series, the_run
from tests.trainer_agent.receiving_server import Store
from trainer_agent.integrations.transformers import EvenkeelCallback
from wire import AlertNotice, Command

LAYERS, SEQ, VOCAB = 2, 8, 32
# Trainer's data loader wants pinned memory wherever torch knows of an accelerator.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


class Tokens(Dataset[dict[str, Tensor]]):
    def __init__(self, size: int = 64) -> None:
        ids = torch.randint(VOCAB, (size, SEQ), generator=torch.Generator().manual_seed(1))
        # Sentences of different lengths: a mean over batches is not a mean over tokens.
        self.labels = [row.where(torch.arange(SEQ) > i % 6, -100) for i, row in enumerate(ids)]
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def trainer(folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    torch.manual_seed(0)
    # Without dropout, evaluation between steps leaves their random numbers alone.
    sizes = {"n_layer": LAYERS, "n_embd": 16, "n_head": 2, "vocab_size": VOCAB, "n_positions": SEQ}
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    loss = {"compute_loss_func": options.pop("compute_loss_func", None)}
    arguments = TrainingArguments(output_dir=str(folder / "out"), **(defaults | options))
    model = GPT2LMHeadModel(config)
    data = {"train_dataset": Tokens(), "eval_dataset": Tokens(4)}
    return Trainer(model=model, args=arguments, callbacks=list(callbacks), **data, **loss)


def logged(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_each_optimizer_step_arrives_with_the_trainers_own_loss(
    tmp_path: Path, store: Store, accumulated: int
) -> None:
    job = trainer(
        tmp_path, EvenkeelCallback(project="p", every=1), gradient_accumulation_steps=accumulated
    )
    job.train()

    run_id = the_run(store)
    steps, losses = series(store, run_id, "/loss/value")
    assert steps == [0, 1, 2, 3]
    # The Trainer logs four digits.
    assert losses[:, 0] == pytest.approx(logged(job), abs=2e-4)
    _, rates = series(store, run_id, "/learning_rate/value")
    assert np.isfinite(rates).all()
    _, norms = series(store, run_id, "/gradient_norm/value")
    assert (norms > 0).all()


def test_the_first_step_is_measured_and_described(tmp_path: Path, store: Store) -> None:
    trainer(tmp_path, EvenkeelCallback(project="p", every=1, run="mine", tags=["a"])).train()

    run_id = the_run(store)
    steps, variance = series(store, run_id, "decoder/stream/variance")
    assert steps[0] == 0 and variance.shape == (4, LAYERS + 1)
    assert np.isfinite(variance).all()
    assert store.revisions[0].step == 0
    declared = store.declarations[0]
    assert (declared.name, declared.tags) == ("mine", ("a",))
    assert declared.config["per_device_train_batch_size"] == 2
    assert store.ends[run_id].status == "finished"


def test_evaluation_between_steps_changes_nothing(tmp_path: Path, store: Store) -> None:
    for steps in (0, 1):
        strategy = {"eval_strategy": "steps", "eval_steps": steps} if steps else {}
        job = trainer(tmp_path / str(steps), EvenkeelCallback(project="p", every=1), **strategy)
        job.train()

    first, second = (
        series(store, run_id, "decoder/stream/variance")[1] for run_id in store.layouts
    )
    assert np.array_equal(first, second)


def test_a_loss_function_of_ones_own_is_taken_from_the_log(tmp_path: Path, store: Store) -> None:
    def own(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return outputs["logits"].square().mean()

    job = trainer(tmp_path, EvenkeelCallback(project="p", every=1), compute_loss_func=own)
    job.train()

    run_id = the_run(store)
    _, losses = series(store, run_id, "/loss/value")
    assert np.isnan(losses[0, 0])
    assert losses[1:, 0] == pytest.approx(logged(job)[:-1], abs=1e-6)


def test_training_from_a_checkpoint_goes_on_with_its_run(tmp_path: Path, store: Store) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, EvenkeelCallback(project="p", every=1), **saving).train()

    second = trainer(tmp_path, EvenkeelCallback(project="p", every=1), **saving | {"max_steps": 6})
    second.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))

    run_id = the_run(store)
    steps, _ = series(store, run_id, "/loss/value")
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5]


class Breaks(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise ZeroDivisionError("of my own")


def test_a_failure_inside_the_context_ends_the_run_as_failed(tmp_path: Path, store: Store) -> None:
    with pytest.raises(ZeroDivisionError), EvenkeelCallback(project="p", every=1) as callback:
        trainer(tmp_path, callback, Breaks()).train()

    run_id = the_run(store)
    assert store.ends[run_id].reason == "ZeroDivisionError: of my own"
    assert series(store, run_id, "/loss/value")[0] == [0, 1]


def test_training_again_is_another_run(tmp_path: Path, store: Store) -> None:
    callback = EvenkeelCallback(project="p", every=1)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callback, Breaks()).train()
    trainer(tmp_path, callback).train()

    first, second = store.layouts
    assert store.ends[first].status == "failed"
    assert store.ends[second].status == "finished"


class Alarm(TrainerCallback):
    """Stands where the server's answer comes in: tells the agent of a critical alert."""

    def __init__(self, watching: EvenkeelCallback, step: int) -> None:
        self._watching, self._step = watching, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        at = state.global_step == self._step and state.is_world_process_zero
        if at and self._watching.agent is not None:
            word = AlertNotice("nonfinite", "critical", "NaN", "At step 1 ...", 1)
            self._watching.agent._parts.dispatcher.dispatch(Command("a", "alert", alert=word))


def test_a_critical_alert_saves_and_stops_where_that_was_asked_for(
    tmp_path: Path, store: Store
) -> None:
    watching = EvenkeelCallback(project="p", every=1, on_alert=["stop", "checkpoint"])
    job = trainer(tmp_path, watching, Alarm(watching, 1))
    job.train()

    steps, _ = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1]
    assert (tmp_path / "out" / "checkpoint-2").is_dir()


def test_an_alert_stops_nothing_by_default(tmp_path: Path, store: Store) -> None:
    watching = EvenkeelCallback(project="p", every=1)
    trainer(tmp_path, watching, Alarm(watching, 1)).train()

    steps, _ = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1, 2, 3]
