"""Backward passes of all kinds: which gradient belongs to which forward pass, and which to none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.situations.observed_gradients import (
    ObservedStreams,
    assert_same,
    weights_of,
)
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of
from trainer_agent.capture import stream_gradients
from trainer_agent.capture.backward_call import BackwardCall, running_call

Train = Callable[[SmallGPT, ObservedStreams], None]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
    # Of torch's own code, as it differentiates forwards.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]
GRADIENT = "decoder/stream_gradient/variance"


@pytest.fixture(autouse=True)
def differentiable_attention() -> Iterator[None]:
    """Attention whose gradient has a gradient, and that can be transformed."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def penalty_of(gradients: tuple[Tensor, ...]) -> Tensor:
    return sum((g.square().sum() for g in gradients), torch.zeros(()))


def two_losses(model: SmallGPT, _: ObservedStreams) -> None:
    logits = model(batch(1)[:, :-1])
    logits.square().mean().backward(retain_graph=True)
    logits.exp().mean().backward()


def three_losses_of_which_the_last_retains(model: SmallGPT, _: ObservedStreams) -> None:
    logits = model(batch(1)[:, :-1])
    for loss in (logits.square().mean(), logits.exp().mean(), -logits.mean()):
        loss.backward(retain_graph=True)


def opposite_losses(model: SmallGPT, _: ObservedStreams) -> None:
    logits = model(batch(1)[:, :-1])
    logits.square().mean().backward(retain_graph=True)
    (-0.9 * logits.square().mean()).backward()


def auxiliary_loss_inside(model: SmallGPT, _: ObservedStreams) -> None:
    inner: list[Tensor] = []
    handle = model.blocks[0].register_forward_hook(lambda _, __, out: inner.append(out))
    loss = loss_of(model, batch(1))
    handle.remove()
    inner[0].square().mean().backward(retain_graph=True)
    loss.backward()


def two_losses_of_each_micro_batch(model: SmallGPT, _: ObservedStreams) -> None:
    for seed in (1, 2):
        logits = model(batch(seed)[:, :-1])
        logits.square().mean().backward(retain_graph=True)
        logits.exp().mean().backward()


def two_forward_passes_before_one_backward(model: SmallGPT, _: ObservedStreams) -> None:
    first, second = model(batch(1)[:, :-1]), model(batch(2)[:, :-1])
    (first - second).square().mean().backward()


def two_forward_passes_before_two_backwards(model: SmallGPT, _: ObservedStreams) -> None:
    first, second = loss_of(model, batch(1)), loss_of(model, batch(2))
    first.backward()
    second.backward()


def gradients_by_hand(model: SmallGPT, _: ObservedStreams) -> None:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss_of(model, batch(1)), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


ANY_CHECKPOINT: list[Train] = [
    two_losses,
    three_losses_of_which_the_last_retains,
    opposite_losses,
    two_losses_of_each_micro_batch,
    two_forward_passes_before_one_backward,
    two_forward_passes_before_two_backwards,
]


def gradient_penalty(model: SmallGPT, streams: ObservedStreams) -> None:
    loss = loss_of(model, batch(1))
    with streams.ignoring():
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (loss + 0.1 * penalty_of(gradients)).backward()


def input_gradient_penalty(model: SmallGPT, streams: ObservedStreams) -> None:
    embedded: list[Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, args: embedded.append(args[0]))
    loss = loss_of(model, batch(1))
    handle.remove()
    with streams.ignoring():
        gradients = torch.autograd.grad(loss, embedded, create_graph=True)
    penalty_of(gradients).backward()
    loss_of(model, batch(2)).backward()


def meta_learning(model: SmallGPT, streams: ObservedStreams) -> None:
    parameters = dict(model.named_parameters())
    loss = loss_of(model, batch(1))
    with streams.ignoring():
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    adapted = {name: p - 0.1 * g for (name, p), g in pairs}
    functional_call(model, adapted, (batch(2)[:, :-1],)).square().mean().backward()


def second_order_optimizer(model: SmallGPT, streams: ObservedStreams) -> None:
    parameters = list(model.parameters())
    loss_of(model, batch(1)).backward(create_graph=True)
    gradients = [p.grad for p in parameters]
    product = sum((g.sum() for g in gradients if g is not None), torch.zeros(()))
    with streams.ignoring():
        torch.autograd.grad(product, parameters)
    for parameter in parameters:
        parameter.grad = parameter.grad.detach()  # or the graph would hold itself


def adversarial_perturbation(model: SmallGPT, streams: ObservedStreams) -> None:
    added = torch.zeros(3, 8, 16, requires_grad=True)
    handle = model.blocks[0].register_forward_pre_hook(lambda _, args: (args[0] + added,))
    loss = loss_of(model, batch(1))
    with streams.ignoring():
        direction = torch.autograd.grad(loss, added)[0]
    handle.remove()
    shift = model.blocks[0].register_forward_pre_hook(lambda _, args: (args[0] + direction,))
    loss_of(model, batch(1)).backward()
    shift.remove()


def saliency_of_many_outputs(model: SmallGPT, streams: ObservedStreams) -> None:
    logits = model(batch(1)[:, :-1])
    with streams.ignoring():
        outputs = torch.eye(4)
        rows = logits[0, 0, :4]
        torch.autograd.grad(
            rows, model.blocks[0].up.weight, outputs, is_grads_batched=True, retain_graph=True
        )
    logits.square().mean().backward()


def transforms_beside(model: SmallGPT, streams: ObservedStreams) -> None:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ids = batch(3)[:, :-1]

    def loss(parameters: dict[str, Tensor], ids: Tensor) -> Tensor:
        return functional_call(model, parameters, (ids,)).square().mean()

    with streams.ignoring():
        grad(loss)(parameters, ids)
        vmap(grad(loss), in_dims=(None, 0))(parameters, ids.unsqueeze(1))
        jvp(lambda p: loss(p, ids), (parameters,), (parameters,))
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(p, p) for name, p in parameters.items()}
            loss(duals, ids)
    loss_of(model, batch(1)).backward()


def sharpness_aware(model: SmallGPT, _: ObservedStreams) -> None:
    loss_of(model, batch(1)).backward()
    steps = [0.1 * p.grad for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        torch._foreach_add_(list(model.parameters()), steps)
    model.zero_grad()
    loss_of(model, batch(1)).backward()
    with torch.no_grad():
        torch._foreach_sub_(list(model.parameters()), steps)


def closure_called_often(model: SmallGPT, _: ObservedStreams) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch(1))
        loss.backward()
        return loss

    optimizer.step(closure)


def two_phases(model: SmallGPT, streams: ObservedStreams) -> None:
    logits = model(batch(1)[:, :-1])
    logits.detach().requires_grad_().square().mean().backward()  # the critic's: the model has none
    model.zero_grad()
    model.head.requires_grad_(False)
    logits.exp().mean().backward()
    model.head.requires_grad_(True)


OTHERS: list[Train] = [
    sharpness_aware,
    closure_called_often,
    two_phases,
    auxiliary_loss_inside,
    gradients_by_hand,
    gradient_penalty,
    input_gradient_penalty,
    meta_learning,
    second_order_optimizer,
    adversarial_perturbation,
    saliency_of_many_outputs,
    transforms_beside,
]
SAID: dict[Train, tuple[str, ...]] = {
    gradient_penalty: ("differentiated again",),
    input_gradient_penalty: ("differentiated again",),
    meta_learning: ("differentiated again",),
    second_order_optimizer: ("differentiated again",),
    adversarial_perturbation: ("no parameter",),
    saliency_of_many_outputs: ("many outputs",),
    transforms_beside: ("torch.func",),
}


@pytest.mark.parametrize("quantities", [(), "all"])
@pytest.mark.parametrize("train", [*ANY_CHECKPOINT, *OTHERS])
def test_streams_and_gradients_equal_a_direct_computation(
    train: Train, quantities: str, tmp_path: Path
) -> None:
    model, _ = built()
    # The first step is also described, the second has nothing but the sums.
    agent, transport = recorded(model, tmp_path, quantities=quantities)

    observed = []
    for _ in range(2):
        observed.append(ObservedStreams(model))
        train(model, observed[-1])
        agent.step()
        observed[-1].remove()
        model.zero_grad()
    agent.close()

    for at, streams in enumerate(observed):
        streams.assert_measured(transport, at)
    assert transport.health.failures == 0
    notes = transport.health.notes
    assert len(notes) == len(SAID.get(train, ()))
    assert all(part in note for part, note in zip(SAID.get(train, ()), notes, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("train", ANY_CHECKPOINT)
def test_under_checkpoints_they_are_those_without(
    train: Train, reentrant: bool, tmp_path: Path
) -> None:
    plain, _ = built()
    streams = ObservedStreams(plain)
    train(plain, streams)
    model, _ = built(checkpointing=reentrant)
    agent, transport = recorded(model, tmp_path)

    for _ in range(2):
        train(model, streams)
        agent.step()
    agent.close()

    for at in range(2):
        streams.assert_measured(transport, at)
    assert transport.health.failures == 0


def test_all_quantities_of_a_sum_are_those_of_the_sum(tmp_path: Path) -> None:
    model, _ = built()
    streams = ObservedStreams(model)
    agent, transport = recorded(model, tmp_path, quantities=["absmax", "kurtosis", "ranks"])

    opposite_losses(model, streams)
    agent.step()
    agent.close()

    sums = [passes[0] for passes in streams.gradients if passes[0] is not None]
    largest = [float(g.abs().max()) for g in sums]
    np.testing.assert_allclose(transport.series("decoder/stream_gradient/absmax"), largest, 1e-5)
    kurtosis = [float(((g - g.mean()) / g.std(correction=0)).pow(4).mean()) for g in sums]
    np.testing.assert_allclose(transport.series("decoder/stream_gradient/kurtosis"), kurtosis, 1e-4)


@pytest.mark.parametrize("quantities", [(), "all"])
def test_gradients_that_cannot_be_added_up_are_absent_and_that_is_said(
    quantities: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_gradients, "WAITING_BYTES", 0)
    model, _ = built()
    streams = ObservedStreams(model)
    agent, transport = recorded(model, tmp_path, quantities=quantities)

    two_losses(model, streams)
    agent.step()
    agent.close()

    measured = transport.series("decoder/stream/variance")
    np.testing.assert_allclose(measured, streams.variances(), rtol=1e-5)
    assert np.isnan(transport.series(GRADIENT)).all()
    assert transport.health.notes == (stream_gradients.TWICE,)


def test_gradients_of_an_engine_that_is_called_directly_are_absent_where_they_are_parts(
    tmp_path: Path,
) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    engine = torch.autograd.Variable._execution_engine

    loss = loss_of(model, batch(1))
    for _ in range(2):
        engine.run_backward((loss,), (torch.ones(()),), True, False, (), True, accumulate_grad=True)
    agent.step()
    agent.close()

    assert np.isnan(transport.series(GRADIENT)).all()
    assert transport.health.notes == (stream_gradients.TWICE,)


def test_a_call_is_recognised_from_the_thread_that_computes_its_gradients() -> None:
    caller, calls = threading.get_ident(), []

    def look(_: Tensor) -> None:
        # A GPU's gradients are computed in another thread than the one that waits for them.
        thread = threading.Thread(target=lambda: calls.append(running_call(caller)))
        thread.start()
        thread.join()

    weight = nn.Parameter(torch.ones(3))
    x = weight * 2
    x.register_hook(look)
    x.sum().backward(retain_graph=True)
    torch.autograd.grad(x.sum(), weight, retain_graph=True)
    torch.autograd.grad(x.sum(), x)

    assert calls == [
        BackwardCall(retains=True, accumulates=True, reaches_parameters=True),
        BackwardCall(retains=True, accumulates=False, reaches_parameters=True),
        BackwardCall(retains=False, accumulates=False, reaches_parameters=False),
    ]


def test_a_backward_pass_of_an_earlier_step_changes_no_later_one(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    earlier = loss_of(model, batch(1))
    earlier.backward(retain_graph=True)
    agent.step()
    streams = ObservedStreams(model)
    loss_of(model, batch(2)).backward()
    earlier.backward()
    agent.step()
    agent.close()

    streams.assert_measured(transport)


def test_no_gradient_outlives_its_step(tmp_path: Path) -> None:
    model, _ = built()
    agent, _ = recorded(model, tmp_path)
    waiting = agent._parts.recorder._gradients._waiting

    three_losses_of_which_the_last_retains(model, ObservedStreams(model))
    assert waiting
    agent.step()
    agent.close()

    assert not agent._parts.recorder._gradients._waiting
    assert all(gradient.waiting is None for gradient in waiting)


@pytest.mark.parametrize("train", [*ANY_CHECKPOINT, *OTHERS])
def test_weights_are_the_same_to_the_bit(train: Train, tmp_path: Path) -> None:
    def trained(folder: Path | None) -> list[Tensor]:
        model, optimizer = built(p_drop=0.0)
        agent = recorded(model, folder, optimizer=optimizer)[0] if folder else None
        for _ in range(3):
            streams = ObservedStreams(model)
            train(model, streams)
            streams.remove()
            optimizer.step()
            optimizer.zero_grad()
            if agent is not None:
                agent.step()
        if agent is not None:
            agent.close()
        return weights_of(model)

    assert_same(trained(None), trained(tmp_path))
