"""Several optimizers: numbers over all of them, and parameters that none of them holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.situations.observed_gradients import GivenNorms, norm_of, weights_of
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of
from trainer_agent import watch
from trainer_agent.errors import WatchError


def two_optimizers(model: SmallGPT) -> list[Optimizer]:
    """One for matrices, one for the rest."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    return [torch.optim.SGD(matrices, lr=0.1), torch.optim.AdamW(others, lr=1e-3)]


def train_step(model: SmallGPT, optimizers: list[Optimizer], seed: int) -> None:
    loss_of(model, batch(seed)).backward()
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()


@pytest.mark.parametrize("form", [list, tuple, lambda pair: dict(zip("ab", pair, strict=True))])
def test_norm_and_learning_rates_are_those_of_all_optimizers(form: Any, tmp_path: Path) -> None:
    model, _ = built()
    optimizers = two_optimizers(model)
    direct = GivenNorms(*optimizers)
    agent, transport = recorded(model, tmp_path, optimizer=form(optimizers))

    train_step(model, optimizers, 1)
    agent.step()
    agent.close()

    norm = sum(norm**2 for norm in direct.norms) ** 0.5
    assert transport.series("/gradient_norm/value")[0] == pytest.approx(norm, rel=1e-5)
    assert transport.series("/learning_rate/value")[0] == pytest.approx(0.1)
    assert transport.series("/learning_rate_1/value")[0] == pytest.approx(1e-3)
    assert transport.health.notes == ()


def test_weights_and_updates_are_read_around_all_optimizers(tmp_path: Path) -> None:
    model, _ = built()
    optimizers = two_optimizers(model)
    sites = ["weights", "updates"]
    agent, transport = recorded(model, tmp_path, optimizer=optimizers, sites=sites)
    before = weights_of(model)

    train_step(model, optimizers, 1)
    agent.step()
    agent.close()

    after = weights_of(model)
    flat = torch.cat([w.double().reshape(-1) for w in before])
    change = torch.cat([w.double().reshape(-1) for w in after]) - flat
    measured = transport.series("/weights/rms")[0]
    assert measured == pytest.approx(float(flat.square().mean().sqrt()), rel=1e-5)
    ratio = float(change.norm() / flat.norm())
    # differences of float32 weights are good to about 1e-7 / 1e-3 each
    assert transport.series("/updates/ratio")[0] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("detached", [True, False])
def test_each_optimizer_of_a_gan_counts_the_gradients_it_is_given(
    detached: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"generator": SmallGPT(), "discriminator": nn.Linear(32, 1)})
    generator, discriminator = model["generator"], model["discriminator"]
    optimizers = [torch.optim.Adam(part.parameters(), lr=1e-3) for part in model.values()]
    direct = GivenNorms(*optimizers)
    agent, transport = recorded(model, tmp_path, optimizer=optimizers)
    ids = batch(1)[:, :-1]

    for _ in range(2):
        fake = generator(ids)
        model.zero_grad()
        discriminator(fake.detach() if detached else fake).mean().backward(retain_graph=True)
        optimizers[1].step()
        model.zero_grad()
        (-discriminator(generator(ids)).mean()).backward()
        optimizers[0].step()
        agent.step()
    agent.close()

    for at in range(2):
        norm = sum(norm**2 for norm in direct.norms[2 * at : 2 * at + 2]) ** 0.5
        measured = transport.series("/gradient_norm/value", at=at)[0]
        assert measured == pytest.approx(norm, rel=1e-5)


def test_an_optimizer_that_does_not_step_is_given_nothing(tmp_path: Path) -> None:
    model, _ = built()
    optimizers = two_optimizers(model)
    direct = GivenNorms(*optimizers)
    agent, transport = recorded(model, tmp_path, optimizer=optimizers)

    loss_of(model, batch(1)).backward()
    optimizers[1].step()
    agent.step()
    agent.close()

    assert len(direct.norms) == 1
    assert transport.series("/gradient_norm/value")[0] == pytest.approx(direct.norms[0], rel=1e-5)


def test_clipping_all_at_once_is_undone(tmp_path: Path) -> None:
    model, _ = built()
    optimizers = two_optimizers(model)
    agent, transport = recorded(model, tmp_path, optimizer=optimizers)

    loss_of(model, batch(1)).backward()
    norm = norm_of(list(model.parameters()))
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    for optimizer in optimizers:
        optimizer.step()
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(norm, rel=1e-5)


def test_parameters_that_no_optimizer_holds_are_counted_and_named(tmp_path: Path) -> None:
    model, _ = built()
    model.head.requires_grad_(False)  # not trained, so nobody misses it
    optimizer = torch.optim.SGD(model.blocks[1:].parameters(), lr=0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    train_step(model, [optimizer], 1)
    agent.step()
    optimizer.add_param_group({"params": [*model.tokens.parameters(), *model.norm.parameters()]})
    train_step(model, [optimizer], 2)
    agent.step()
    agent.close()

    names = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not any(p is q for g in optimizer.param_groups for q in g["params"])
    ]
    assert transport.health.notes == (
        f"{len(names)} trainable parameters are in no optimizer that watch was given: "
        f"{', '.join(names[:3])}, ...",
    )


def test_an_optimizer_of_another_model_is_said_to_be_one(tmp_path: Path) -> None:
    model, _ = built()
    other, optimizer = built(seed=1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    train_step(other, [optimizer], 1)
    agent.step()
    agent.close()

    assert transport.health.notes == (
        "the optimizer that watch was given holds none of the model's trainable parameters",
    )


@pytest.mark.parametrize("wrong", [3, "adam", [None], {"a": 1}, lambda: None])
def test_what_is_no_optimizer_is_refused(wrong: Any, tmp_path: Path) -> None:
    model, _ = built()

    with pytest.raises(WatchError, match="optimizer"):
        watch(model, project="p", run="r", optimizer=wrong, spool_dir=tmp_path)
