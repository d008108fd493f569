"""A real Lightning `Trainer` with the callback, sending to a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.trainer_agent.integrations.arrivals import series, the_run
from tests.trainer_agent.receiving_server import Store
from tests.trainer_agent.small_gpt import LAYERS, SmallGPT, batch, built, loss_of
from trainer_agent.job.gradient_norm import gradient_norm

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from trainer_agent.integrations.lightning import EvenkeelCallback  # noqa: E402
from wire import AlertNotice, Command  # noqa: E402

# Lightning warns of workers, loggers and intervals that a small test does without.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Module(lightning.LightningModule):
    """A module whose own forward never runs, as many are written."""

    p_drop = 0.0

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net: SmallGPT = built(p_drop=self.p_drop)[0]
        self.seen: list[float] = []
        self.norms: list[float] = []

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        loss = loss_of(self.net, ids)
        self.seen.append(loss.item())
        return loss

    def validation_step(self, ids: Tensor, index: int) -> None:
        loss_of(self.net, ids)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norm = gradient_norm(optimizer)
        assert norm is not None
        self.norms.append(norm.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def batches(count: int = 6) -> DataLoader[Tensor]:
    return DataLoader([batch(number) for number in range(count)], batch_size=None)


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "max_epochs": 1}
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), **(quiet | plain | options)
    )


def callback(**options: Any) -> EvenkeelCallback:
    return EvenkeelCallback(project="p", run="r", every=1, **options)


def test_each_step_arrives_with_its_loss_rate_and_gradients(tmp_path: Path, store: Store) -> None:
    module = Module()
    trainer(tmp_path, callback()).fit(module, batches())

    run_id = the_run(store)
    steps, losses = series(store, run_id, "/loss/value")
    assert steps == list(range(6))
    assert losses[:, 0] == pytest.approx(module.seen)
    assert series(store, run_id, "/learning_rate/value")[1][:, 0] == pytest.approx(1e-3)
    assert series(store, run_id, "/gradient_norm/value")[1][:, 0] == pytest.approx(module.norms)
    assert store.declarations[0].config == {"width": 3}
    assert store.ends[run_id].status == "finished"


@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 0.01}, {"precision": "bf16-mixed", "gradient_clip_val": 0.01}],
    ids=["clipped", "bf16"],
)
def test_the_gradient_norm_is_that_before_clipping(
    options: dict[str, Any], tmp_path: Path, store: Store
) -> None:
    module = Module()
    trainer(tmp_path, callback(), **options).fit(module, batches())

    norms = series(store, the_run(store), "/gradient_norm/value")[1][:, 0]
    assert norms == pytest.approx(module.norms, rel=1e-4)
    assert min(module.norms) > 0.01


class OneBrokenLoss(Module):
    """The loss of the fourth batch is NaN."""

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        return super().training_step(ids, index) * (float("nan") if index == 3 else 1.0)


def test_steps_with_broken_gradients_are_skipped_where_that_was_asked_for(
    tmp_path: Path, store: Store
) -> None:
    skipping, plain = OneBrokenLoss(), OneBrokenLoss()
    trainer(tmp_path, callback(on_alert="skip_step")).fit(skipping, batches())
    trainer(tmp_path).fit(plain, batches())

    assert all(bool(p.isfinite().all()) for p in skipping.parameters())
    assert not all(bool(p.isfinite().all()) for p in plain.parameters())


def test_the_net_inside_the_module_is_measured_and_described(tmp_path: Path, store: Store) -> None:
    trainer(tmp_path, callback()).fit(Module(), batches(), batches(2))

    _, variance = series(store, the_run(store), "decoder/stream/variance")
    assert variance.shape == (6, LAYERS + 1) and np.isfinite(variance).all()
    assert store.revisions[0].step == 0
    assert store.revisions[0].spec["stacks"]["decoder"]["blocks"][0] is not None


def test_accumulated_batches_are_one_step_of_their_mean_loss(tmp_path: Path, store: Store) -> None:
    module = Module()
    trainer(tmp_path, callback(), accumulate_grad_batches=3).fit(module, batches())

    steps, losses = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1]
    expected = np.reshape(module.seen, (2, 3)).mean(axis=1)
    assert losses[:, 0] == pytest.approx(expected, rel=1e-5)


def test_fitting_from_a_checkpoint_goes_on_with_its_run(tmp_path: Path, store: Store) -> None:
    first = trainer(tmp_path, callback(), max_steps=3, max_epochs=-1)
    first.fit(Module(), batches())
    first.save_checkpoint(tmp_path / "saved.ckpt")

    second = trainer(tmp_path, callback(), max_steps=5, max_epochs=-1)
    second.fit(Module(), batches(), ckpt_path=tmp_path / "saved.ckpt")

    steps, _ = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1, 2, 3, 4]


class Breaks(Module):
    def training_step(self, ids: Tensor, index: int) -> Tensor:
        if index == 2:
            raise ZeroDivisionError("of my own")
        return super().training_step(ids, index)


def test_an_exception_ends_the_run_as_failed(tmp_path: Path, store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callback()).fit(Breaks(), batches())

    assert store.ends[the_run(store)].reason == "ZeroDivisionError: of my own"


class Headed(Module):
    """Its parameters are in two places, so which is the transformer must be said."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(2, 2)


def test_the_module_to_watch_can_be_named(tmp_path: Path, store: Store) -> None:
    trainer(tmp_path, callback(module="net")).fit(Headed(), batches(1))

    _, variance = series(store, the_run(store), "decoder/stream/variance")
    assert np.isfinite(variance).all()


class Alarm(lightning.Callback):
    """Stands where the server's answer comes in: tells the agent of a critical alert."""

    def __init__(self, watching: EvenkeelCallback) -> None:
        self._watching = watching

    def on_train_batch_start(self, trainer: Any, module: Any, ids: Tensor, index: int) -> None:
        if index == 2 and trainer.global_rank == 0 and self._watching.agent is not None:
            word = AlertNotice("nonfinite", "critical", "NaN", "At step 2 ...", 2)
            self._watching.agent._parts.dispatcher.dispatch(Command("a", "alert", alert=word))


def test_a_critical_alert_saves_and_stops_where_that_was_asked_for(
    tmp_path: Path, store: Store
) -> None:
    watching = callback(on_alert=["stop", "checkpoint"])
    trainer(tmp_path, watching, Alarm(watching)).fit(Module(), batches())

    steps, _ = series(store, the_run(store), "/loss/value")
    assert steps == [0, 1, 2]
    assert (tmp_path / "evenkeel" / "step-3.ckpt").is_file()
