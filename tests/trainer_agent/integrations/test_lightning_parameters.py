"""Weights and updates under Lightning, against copies taken around the optimizer's own update."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.integrations.arrivals import series, the_run
from tests.trainer_agent.integrations.test_lightning_trainer import (
    Module,
    batches,
    callback,
    trainer,
)
from tests.trainer_agent.job.test_parameters import copies, of_block, rms
from tests.trainer_agent.receiving_server import Store
from tests.trainer_agent.small_gpt import LAYERS, loss_of

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
SITES = ["weights", "updates"]
KEYS = (
    "weights/rms",
    "weight_gradients/rms",
    "updates/ratio",
    "updates/second_moment",
)


class Observed(torch.optim.AdamW):
    """An optimizer that records, within its step, weights and gradients around its update."""

    def __init__(self, net: nn.Module, parameters: Any) -> None:
        super().__init__(parameters, lr=1e-3)
        self.net, self.recorded = net, defaultdict(list)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        blocks = [of_block(self.net, at) for at in range(LAYERS)]
        before = [copies(block) for block in blocks]
        gradients = [[p.grad for p in block if p.grad is not None] for block in blocks]
        self.recorded["weights/rms"].append([rms(weights) for weights in before])
        self.recorded["weight_gradients/rms"].append(
            [rms(tensors) if tensors else None for tensors in gradients]
        )
        super().step()
        self.recorded["updates/ratio"].append(
            [
                rms([p - o for p, o in zip(block, old, strict=True)]) / rms(old)
                for block, old in zip(blocks, before, strict=True)
            ]
        )
        self.recorded["updates/second_moment"].append(
            [float(torch.cat(list(map(self._moments, block))).mean()) for block in blocks]
        )
        return loss

    def _moments(self, parameter: Tensor) -> Tensor:
        return self.state[parameter]["exp_avg_sq"].double().reshape(-1)


class Observing(Module):
    """A module whose optimizer records its updates."""

    def configure_optimizers(self) -> Observed:
        self.optimizer = Observed(self.net, self.net.parameters())
        return self.optimizer


class ByHand(Observing):
    """Manual optimization, of two batches a step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        loss = super().training_step(ids, index) / 2
        self.manual_backward(loss)
        if index % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()
        return loss


class ByClosure(ByHand):
    """Manual optimization whose gradients a closure computes inside the step."""

    def training_step(self, ids: Tensor, index: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(self.net, ids)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


def assert_recorded(store: Store, recorded: dict[str, list[Any]], steps: int) -> None:
    for key in KEYS:
        _, measured = series(store, the_run(store), f"decoder/{key}")
        expected = np.array(recorded[key])
        # differences of float32 weights are good to about 1e-7 / 1e-3 each
        np.testing.assert_allclose(measured, expected, rtol=2e-4, err_msg=key)
        assert len(expected) == steps, key


@pytest.mark.parametrize(
    ("module", "steps", "options"),
    [
        (Observing, 6, {}),
        (Observing, 6, {"gradient_clip_val": 0.1}),
        (Observing, 2, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}),
        (Observing, 6, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}),
        (ByHand, 3, {}),
        (ByClosure, 6, {}),
    ],
    ids=["plain", "clipped", "accumulated", "bf16", "manual", "closure"],
)
def test_weights_and_updates_are_those_of_the_optimizer(
    module: type[Observing], steps: int, options: dict[str, Any], tmp_path: Path, store: Store
) -> None:
    job = module()
    trainer(tmp_path, callback(sites=SITES), **options).fit(job, batches())

    assert_recorded(store, job.optimizer.recorded, steps)
    assert store.healths[-1].first_failure == ""


def test_weights_and_updates_are_read_without_being_asked_for(tmp_path: Path, store: Store) -> None:
    job = Observing()
    trainer(tmp_path, callback()).fit(job, batches())

    for key in ("weights/rms", "updates/ratio"):  # small tensors are read whole
        _, measured = series(store, the_run(store), f"decoder/{key}")
        expected = np.array(job.optimizer.recorded[key])
        assert measured.shape == expected.shape
        np.testing.assert_allclose(measured, expected, rtol=0.1, err_msg=key)


def test_gradients_under_a_scaler_are_those_without_its_scale(tmp_path: Path, store: Store) -> None:
    job = Observing()
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    options = {"plugins": [scaled], "gradient_clip_val": 0.1}
    trainer(tmp_path, callback(sites=SITES), **options).fit(job, batches())

    assert_recorded(store, job.optimizer.recorded, 6)
    assert store.healths[-1].first_failure == ""


class Two(Module):
    """One optimizer for the first block, another for the rest, each a step a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, ids: Tensor, index: int) -> Tensor:
        loss = loss_of(self.net, ids)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss

    def configure_optimizers(self) -> list[Observed]:
        first = of_block(self.net, 0)
        first_ids = set(map(id, first))
        others = [p for p in self.net.parameters() if id(p) not in first_ids]
        self.made = [torch.optim.AdamW(first, lr=1e-2), torch.optim.SGD(others, lr=1e-1)]
        self.old = {name: p.detach().clone() for name, p in self.net.named_parameters()}
        return self.made


def test_several_optimizers_show_the_updates_of_all(tmp_path: Path, store: Store) -> None:
    job = Two()
    trainer(tmp_path, callback(sites=SITES), limit_train_batches=1).fit(job, batches())

    def ratio(at: int) -> float:
        names = [name for name in job.old if name.startswith(f"blocks.{at}.")]
        new = dict(job.net.named_parameters())
        return rms([new[n] - job.old[n] for n in names]) / rms([job.old[n] for n in names])

    _, ratios = series(store, the_run(store), "decoder/updates/ratio")
    assert ratios[0] == pytest.approx([ratio(at) for at in range(LAYERS)], rel=2e-4)
    _, sizes = series(store, the_run(store), "decoder/weights/rms")
    old = [[v for n, v in job.old.items() if n.startswith(f"blocks.{at}.")] for at in range(LAYERS)]
    assert sizes[0] == pytest.approx([rms(weights) for weights in old], rel=1e-5)
    _, moments = series(store, the_run(store), "decoder/updates/second_moment")
    assert np.isfinite(moments[0]).tolist() == [True, False, False]  # SGD keeps none


class Dropping(Module):
    p_drop = 0.1


@pytest.mark.parametrize("module", [Dropping, ByHand, ByClosure])
def test_weights_are_bit_identical_with_and_without_the_callback(
    module: type[Module], tmp_path: Path, store: Store
) -> None:
    plain, watched = module(), module()

    torch.manual_seed(1)
    trainer(tmp_path).fit(plain, batches())
    torch.manual_seed(1)
    trainer(tmp_path, callback(sites="all", quantities="all")).fit(watched, batches())

    assert the_run(store)
    for weights, expected in zip(watched.parameters(), plain.parameters(), strict=True):
        assert weights.equal(expected)
