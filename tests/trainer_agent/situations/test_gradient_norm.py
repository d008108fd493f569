"""The gradient norm is that of what the optimizer is given, whatever led to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.situations.observed_gradients import GivenNorms, norm_of
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of

Step = Callable[[SmallGPT, Optimizer], None]


def plain(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model, batch(1)).backward()
    optimizer.step()


def accumulation(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    for micro_batch in range(3):
        (loss_of(model, batch(micro_batch)) / 3).backward()
    optimizer.step()


def accumulation_divided_afterwards(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    for micro_batch in range(3):
        loss_of(model, batch(micro_batch)).backward()
    for parameter in model.parameters():
        parameter.grad /= 3
    optimizer.step()


def loss_on_parameters_alone(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model, batch(1)).backward()
    (10 * model.tokens.weight.square().mean()).backward()
    optimizer.step()


def two_losses(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    logits = model(batch(1)[:, :-1])
    logits.square().mean().backward(retain_graph=True)
    logits.exp().mean().backward()
    optimizer.step()


def gradients_by_hand(model: SmallGPT, optimizer: Optimizer) -> None:
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for seed in (1, 2):
        gradients = torch.autograd.grad(loss_of(model, batch(seed)), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad += gradient
    optimizer.step()


def clipped_by_value(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model, batch(1)).backward()
    nn.utils.clip_grad_value_(model.parameters(), 0.01)
    optimizer.step()


def gradient_noise(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model, batch(1)).backward()
    for parameter in model.parameters():
        parameter.grad += 0.01
    optimizer.step()


def divided_then_clipped(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model, batch(1)).backward()
    for parameter in model.parameters():
        parameter.grad /= 3
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()


def failed_backward_before(model: SmallGPT, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    logits = model(batch(3)[:, :-1])
    handle = model.head.weight.register_hook(raising)
    with pytest.raises(RuntimeError, match="of the job"):
        logits.sum().backward()
    handle.remove()
    plain(model, optimizer)


def raising(_: Tensor) -> None:
    raise RuntimeError("of the job")


def frozen_part(model: SmallGPT, optimizer: Optimizer) -> None:
    model.blocks[0].requires_grad_(False)
    plain(model, optimizer)


STEPS: list[Step] = [
    plain, accumulation, accumulation_divided_afterwards, loss_on_parameters_alone, two_losses,
    gradients_by_hand, clipped_by_value, gradient_noise, divided_then_clipped,
    failed_backward_before, frozen_part,
]  # fmt: skip


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("step", STEPS)
def test_the_norm_is_that_of_the_gradients_at_the_step(
    step: Step, reentrant: bool | None, tmp_path: Path
) -> None:
    if reentrant and step is gradients_by_hand:
        pytest.skip("torch allows no autograd.grad through a reentrant checkpoint")
    model, optimizer = built(checkpointing=reentrant)
    direct = GivenNorms(optimizer)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for _ in range(2):
        step(model, optimizer)
        agent.step()
    agent.close()

    for at in range(2):
        measured = transport.series("/gradient_norm/value", at=at)[0]
        assert measured == pytest.approx(direct.norms[at], rel=1e-5)
    assert transport.health.failures == 0


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("foreach", [True, False])
def test_clipping_by_norm_is_undone(foreach: bool, reentrant: bool | None, tmp_path: Path) -> None:
    model, optimizer = built(checkpointing=reentrant)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    optimizer.zero_grad()
    loss_of(model, batch(1)).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01, foreach=foreach)
    optimizer.step()
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_norm", [0.05, 0.3, 10.0])
def test_the_norm_before_clipping_does_not_hang_on_the_bound(
    dtype: torch.dtype, max_norm: float, tmp_path: Path
) -> None:
    model, _ = built()
    model = model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    norms = []
    for seed in range(4):
        optimizer.zero_grad()
        loss_of(model, batch(seed)).backward()
        norms.append(norm_of(list(model.parameters())))
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        agent.step()
    agent.close()

    measured = [transport.series("/gradient_norm/value", at=at)[0] for at in range(4)]
    assert measured == pytest.approx(norms, rel=1e-5)


def test_gradients_in_one_buffer_are_clipped_like_others(tmp_path: Path) -> None:
    model, optimizer = built()
    parameters = list(model.parameters())
    buffer = torch.zeros(sum(p.numel() for p in parameters))
    views = buffer.split([p.numel() for p in parameters])
    for parameter, view in zip(parameters, views, strict=True):
        parameter.grad = view.view_as(parameter)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    loss_of(model, batch(1)).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("clips", [True, False])
def test_a_loss_scale_is_no_part_of_the_norm(clips: bool, tmp_path: Path) -> None:
    model, optimizer = built()
    scaler = GradScaler("cpu", init_scale=1024.0)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, scaler=scaler)

    scaler.scale(loss_of(model, batch(1))).backward()
    scaler.unscale_(optimizer)
    norm = norm_of(list(model.parameters()))
    if clips:
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    scaler.step(optimizer)
    scaler.update()
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(norm, rel=1e-5)


def test_sparse_gradients_are_part_of_the_norm(tmp_path: Path) -> None:
    model, _ = built()
    model.tokens.sparse = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    direct = GivenNorms(optimizer)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    plain(model, optimizer)
    agent.step()
    agent.close()

    assert transport.series("/gradient_norm/value")[0] == pytest.approx(direct.norms[0], rel=1e-5)


class SAM(Optimizer):
    """Sharpness-aware minimisation: climb nearby, and descend by the gradient there."""

    def __init__(self, parameters: Any, base: type[Optimizer], rho: float, **options: Any) -> None:
        super().__init__(parameters, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def climb(self) -> None:
        scale = self.param_groups[0]["rho"] / norm_of(self._trained())
        for parameter in self._trained():
            self.state[parameter]["old"] = parameter.detach().clone()
            parameter.add_(parameter.grad * scale)
        self.zero_grad()

    @torch.no_grad()
    def descend(self) -> None:
        for parameter in self._trained():
            parameter.copy_(self.state[parameter]["old"])
        self.base.step()
        self.zero_grad()

    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        self.climb()
        with torch.enable_grad():
            closure()
        self.descend()

    def _trained(self) -> list[nn.Parameter]:
        groups = self.param_groups
        return [p for group in groups for p in group["params"] if p.grad is not None]


@pytest.mark.parametrize("by_closure", [True, False])
@pytest.mark.parametrize("reentrant", [None, True])
def test_the_norm_of_sam_is_that_of_its_second_gradient(
    by_closure: bool, reentrant: bool | None, tmp_path: Path
) -> None:
    model, _ = built(checkpointing=reentrant)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)
    direct = GivenNorms(optimizer.base)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for seed in range(2):
        loss_of(model, batch(seed)).backward()
        if by_closure:
            optimizer.step(lambda seed=seed: loss_of(model, batch(seed)).backward())
        else:
            optimizer.climb()
            loss_of(model, batch(seed)).backward()
            optimizer.descend()
        agent.step()
    agent.close()

    measured = [transport.series("/gradient_norm/value", at=at)[0] for at in range(2)]
    assert measured == pytest.approx(direct.norms, rel=1e-5)


def test_the_norm_of_a_closure_is_that_of_its_first_call(tmp_path: Path) -> None:
    model, _ = built()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    norms: list[list[float]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch(1))
        loss.backward()
        norms[-1].append(norm_of(list(model.parameters())))
        return loss

    for _ in range(2):
        norms.append([])
        optimizer.step(closure)
        agent.step()
    agent.close()

    assert all(len(of_step) > 1 for of_step in norms)
    measured = [transport.series("/gradient_norm/value", at=at)[0] for at in range(2)]
    assert measured == pytest.approx([of_step[0] for of_step in norms], rel=1e-5)


def test_an_embedding_spike_before_a_reentrant_checkpoint_is_in_the_norm(tmp_path: Path) -> None:
    model, optimizer = built(checkpointing=True)
    model.tokens.weight.register_hook(lambda g: g * 1000)
    direct = GivenNorms(optimizer)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    plain(model, optimizer)
    agent.step()
    agent.close()

    assert direct.norms[0] > 10
    assert transport.series("/gradient_norm/value")[0] == pytest.approx(direct.norms[0], rel=1e-5)
