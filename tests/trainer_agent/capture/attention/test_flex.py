"""Logits of `flex_attention` against its own scores; torch compiles it as without the agent."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._higher_order_ops.flex_attention import _math_attention_inner
from torch.nn import functional
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import HEADS, SEQ, WIDTH, Block, batch, built, loss_of
from trainer_agent.capture.attention import AttentionInterception
from trainer_agent.capture.attention.flex import sampled_flex
from trainer_agent.capture.statistics.logits import logits_of

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

compiled = torch.compile(flex_attention, backend="eager")
SLOPES = torch.tensor([0.5, -0.25])


def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def sloped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return score + SLOPES[h] * (k - q)


@torch.compile(backend="eager")
def rotated(x: Tensor) -> Tensor:
    return torch.cat((-x[..., 1::2], x[..., ::2]), dim=-1)


class FlexBlock(Block):
    """Attention without gradients of its own: torch has no others for it on a CPU."""

    shared = staticmethod(compiled)

    def attend(self, x: Tensor) -> Tensor:
        split = (*x.shape[:2], HEADS, WIDTH // HEADS)
        parts = self.qkv(x).detach().split(WIDTH, -1)
        q, k, v = (part.view(split).transpose(1, 2) for part in parts)
        mask = create_block_mask(causal, None, None, SEQ, SEQ, device="cpu")
        mixed = self.look_up(self)(rotated(q), rotated(k), v, score_mod=sloped, block_mask=mask)
        return mixed.transpose(1, 2).reshape(x.shape)


def hidden(function: Any) -> Callable[[Any], Any]:
    return lambda _: function


LOOK_UPS: dict[str, Callable[[Any], Any]] = {
    "global": lambda _: flex_attention,
    "compiled global": lambda _: compiled,
    "module attribute": lambda _: flex_module.flex_attention,
    "instance attribute": lambda block: block.function,
    "class attribute": lambda _: FlexBlock.shared,
    "closure": hidden(compiled),
}


def flex_model(look_up: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model, optimizer = built()
    for block in model.blocks:
        block.__class__ = FlexBlock
        block.look_up, block.function = LOOK_UPS[look_up], compiled
    return model, optimizer


def trained(
    look_up: str, folder: Path | None, **options: Any
) -> tuple[Any, RecordingTransport | None]:
    """A model after four steps, and what an agent sent where there is a folder for it."""
    model, optimizer = flex_model(look_up)
    agent, transport = recorded(model, folder, **options) if folder else (None, None)
    for step in range(4):
        loss = loss_of(model, batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
    return model, transport


def with_nested_index(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return score + ADDED[b][0][q][k]


ADDED = torch.randn(6, 1, 19, 19, generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.arange(19).div(7, rounding_mode="floor").expand(6, -1)
MASKS: dict[str, Any] = {
    "none": None,
    "causal": causal,
    "documents": lambda b, h, q, k: (DOCUMENTS[b, q] == DOCUMENTS[b, k]) & (q >= k),
    "by head": lambda b, h, q, k: (h == 0) | (q - k < 3),
}
SCORES: dict[str, Any] = {
    "plain": None,
    "sloped": sloped,
    "capped": lambda score, b, h, q, k: 2 * torch.tanh(score / 2),
    "indexed one by one": with_nested_index,
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("mask", MASKS)
def test_sampled_flex_logits_are_rows_of_its_own_scores(score: str, mask: str) -> None:
    q, k = torch.randn(6, 2, 19, 4), torch.randn(6, 2, 19, 4)
    mod, mask_mod = SCORES[score] or (lambda s, *_: s), MASKS[mask] or flex_module.noop_mask
    _, full = _math_attention_inner(q, k, k, mod, (mask_mod,), 0.3, {})
    blocks = MASKS[mask] and create_block_mask(MASKS[mask], 6, 2, 19, 19, device="cpu")

    (logits,) = logits_of([sampled_flex(q, k, k, SCORES[score], blocks, 0.3)])

    assert torch.allclose(logits, full[1::2][:, :, [0, 3, 6, 9, 12, 15, 18]], atol=1e-6)


def test_grouped_queries_and_one_sequence_of_keys_for_all_meet_their_own() -> None:
    q, k = torch.randn(3, 4, 5, 4), torch.randn(1, 2, 5, 4)
    full = q @ k.repeat_interleave(2, dim=1).transpose(-2, -1) / math.sqrt(4)

    (logits,) = logits_of([sampled_flex(q, k, k, enable_gqa=True)])

    assert torch.allclose(logits, full, atol=1e-6)


def test_flex_logits_under_autocast_are_those_of_the_rounded_queries() -> None:
    q, k = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    full = q.bfloat16().float() @ k.bfloat16().float().transpose(-2, -1)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        (logits,) = logits_of([sampled_flex(q, k, k, scale=1.0)])

    assert torch.allclose(logits, full, atol=1e-6)


@pytest.mark.parametrize("look_up", [look_up for look_up in LOOK_UPS if look_up != "closure"])
def test_flex_attention_is_intercepted_wherever_a_model_looks_it_up(
    look_up: str, tmp_path: Path
) -> None:
    model, _ = flex_model(look_up)
    inputs: list[Tensor] = []
    for block in model.blocks:
        block.qkv.register_forward_hook(lambda _, __, out: inputs.append(out.detach()))
    agent, transport = recorded(model, tmp_path)

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    logits = torch.stack([sloped_logits(qkv) for qkv in inputs[-3:]])
    series = {q: transport.series(f"decoder/attention_logits/{q}") for q in ("max", "variance")}
    assert series["max"] == pytest.approx(logits.amax(1).numpy(), rel=1e-4)
    assert series["variance"] == pytest.approx(logits.var(1, correction=0).numpy(), rel=1e-3)


def sloped_logits(qkv: Tensor) -> Tensor:
    """All allowed logits of one block."""
    q, k, _ = (part.view(*qkv.shape[:2], HEADS, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    logits = rotated(q) @ rotated(k).transpose(-2, -1) / math.sqrt(q.shape[-1])
    place = torch.arange(SEQ)
    logits = logits + SLOPES[:, None, None] * (place - place[:, None])
    return logits[..., place <= place[:, None]].flatten()


def test_flex_attention_kept_in_a_closure_is_nan(tmp_path: Path) -> None:
    _, transport = trained("closure", tmp_path)

    assert np.isnan(transport.series("decoder/attention_logits/max")).all()
    assert np.isfinite(transport.series("decoder/stream/variance")).all()


@pytest.mark.parametrize("look_up", ["global", "compiled global"])
def test_flex_jobs_have_the_same_weights_and_compilations_with_the_agent(
    look_up: str, tmp_path: Path
) -> None:
    graphs = []
    models = []
    for folder in (None, tmp_path):
        torch._dynamo.reset()
        counters.clear()
        model, _ = trained(look_up, folder, every=2)
        graphs.append(counters["stats"]["unique_graphs"])
        models.append(model)

    bare, watched = ([p.detach() for p in model.parameters()] for model in models)
    assert all(
        torch.equal(weight, watched_weight)
        for weight, watched_weight in zip(bare, watched, strict=True)
    )
    assert graphs[0] == graphs[1] > 0


def test_functions_are_back_in_their_places_after_a_pass_that_raised(tmp_path: Path) -> None:
    model, _ = flex_model("compiled global")
    agent, _ = recorded(model, tmp_path)
    patched: list[bool] = []

    def fail(*_: Any) -> None:
        patched.append(compiled is not before)
        raise RuntimeError("the job's own")

    before = compiled
    loss_of(model, batch(0)).backward()
    agent.step()
    model.blocks[1].qkv.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="the job's own"):
        loss_of(model, batch(0))
    agent.close()

    assert patched == [True]
    assert compiled is before and vars(FlexBlock)["shared"].__func__ is before
    assert flex_module.flex_attention is flex_attention
    assert all(vars(block)["function"] is before for block in model.blocks)


def test_a_wrapper_that_is_compiled_leaves_the_function_compiled() -> None:
    interception = AttentionInterception(lambda sample: None, lambda spent_s: None)
    interception.find_patch_points(torch.nn.Identity())
    plain = flex_attention

    interception.start()
    wrapper, recompiled = flex_attention, torch.compile(flex_attention, backend="eager")
    interception.stop()

    assert wrapper is not plain
    assert recompiled._torchdynamo_orig_callable is plain


def test_another_compiled_function_runs_without_interception() -> None:
    interception = AttentionInterception(lambda sample: None, lambda spent_s: None)
    interception.find_patch_points(torch.nn.Identity())
    torch._dynamo.reset()
    counters.clear()
    x = torch.randn(2, 4)

    bare = rotated(x)
    interception.start()
    watched = rotated(x)
    still_on = interception.is_on
    interception.stop()

    assert torch.equal(bare, watched) and still_on
    assert counters["stats"]["unique_graphs"] == 1


def test_scores_softmaxed_by_hand_beside_flex_are_still_sampled() -> None:
    samples: list[Any] = []
    interception = AttentionInterception(samples.append, lambda spent_s: None)
    interception.find_patch_points(torch.nn.Identity())

    interception.start()
    compiled(*torch.randn(3, 1, 2, 4, 4).unbind())
    functional.softmax(torch.randn(1, 2, 4, 4), dim=-1)
    interception.stop()

    assert len(samples) == 2
