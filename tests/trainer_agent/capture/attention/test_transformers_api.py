"""Logits of attention functions that `transformers` looks up by name, in the real library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    AttentionInterface,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.integrations.flex_attention import WrappedFlexAttention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.trainer_agent.recording import RecordingTransport, recorded
from trainer_agent.capture.attention import AttentionInterception
from trainer_agent.capture.statistics.logits import logits_of

WIDTH, HEADS, SEQ, VOCAB, WINDOW, CAP = 32, 4, 8, 60, 3, 0.5
KEYS = tuple(f"decoder/attention_logits/{quantity}" for quantity in ("max", "variance", "entropy"))


def dense(query: Tensor, key: Tensor, scaling: float, window: Any, softcap: Any) -> Tensor:
    """Logits of all queries, without softmax of torch's; -inf where not allowed."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    place = torch.arange(key.shape[-2])
    back = place[:, None] - place
    allowed = (back >= 0) & (back < (window or len(place)))
    return logits.masked_fill(~allowed, float("-inf"))


class HandMade:
    """An attention function that no torch mode makes out; keeps the logits of every call."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any
    ) -> tuple[Tensor, None]:
        logits = dense(query, key, more["scaling"], more.get("sliding_window"), more.get("softcap"))
        self.logits.append(logits.detach())
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return torch.einsum("bhqk,bhkd->bqhd", weights, value), None


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """Attention functions under names of their own, unregistered in the end."""
    registered = {"hand_made": HandMade(), "around_sdpa": around_sdpa}
    for name, function in registered.items():
        AttentionInterface.register(name, function)
    yield registered
    for name in registered:
        del AttentionInterface._global_mapping[name]


def around_sdpa(*args: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(*args, **kwargs)


def llama(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=3,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCAB,
        initializer_range=0.3,
        attn_implementation=name,
    )
    return LlamaForCausalLM(config).train()


def gemma2(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Gemma2Config(
        num_hidden_layers=2,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        vocab_size=VOCAB,
        sliding_window=WINDOW,
        attn_logit_softcapping=CAP,
        initializer_range=0.3,
        attn_implementation=name,
    )
    return Gemma2ForCausalLM(config).train()


def trained(model: PreTrainedModel, folder: Path | None) -> RecordingTransport | None:
    """Three steps, and what an agent sent where there is a folder for it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    agent, transport = recorded(model, folder) if folder else (None, None)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(VOCAB, (2, SEQ), generator=generator)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss.detach())
    if agent is not None:
        agent.close()
    return transport


def statistics(logits: Tensor) -> tuple[float, float, float]:
    """Largest value, variance and entropy of one layer's full logits."""
    allowed = logits[logits.isfinite()].double()
    weights = logits.double().softmax(-1)
    entropy = -torch.special.xlogy(weights, weights).sum(-1).mean()
    return float(allowed.max()), float(allowed.var(correction=0)), float(entropy)


@pytest.mark.parametrize("make", [llama, gemma2])
def test_logits_of_a_registered_function_equal_those_it_computes(
    make: Any, names: dict[str, Any], tmp_path: Path
) -> None:
    model = make("hand_made")

    transport = trained(model, tmp_path)

    layers = model.config.num_hidden_layers
    expected = np.array([statistics(logits) for logits in names["hand_made"].logits[-layers:]]).T
    for key, values in zip(KEYS, expected, strict=True):
        assert transport.series(key) == pytest.approx(values, rel=1e-3), key


def test_the_call_counts_once_where_what_lies_beneath_is_seen_too(
    names: dict[str, Any], tmp_path: Path
) -> None:
    sent = {
        name: trained(llama(name), tmp_path / name)
        for name in ("sdpa", "eager", "around_sdpa", "hand_made")
    }

    for key in KEYS:
        direct = sent["sdpa"].series(key)
        assert np.array_equal(sent["around_sdpa"].series(key), direct)
        assert sent["hand_made"].series(key) == pytest.approx(direct, rel=1e-3)
        assert sent["eager"].series(key) == pytest.approx(direct, rel=1e-3)


def test_weights_of_a_model_with_its_own_attention_are_bit_identical(
    names: dict[str, Any], tmp_path: Path
) -> None:
    bare, watched = gemma2("hand_made"), gemma2("hand_made")

    trained(bare, None)
    trained(watched, tmp_path)

    pairs = zip(bare.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(weight, watched_weight) for weight, watched_weight in pairs)


def frozen_below_the_head(name: str) -> PreTrainedModel:
    """Torch has no gradients of flex attention on a CPU."""
    model = llama(name).requires_grad_(False)
    model.lm_head.requires_grad_(True)
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_of_the_library_has_the_logits_of_sdpa_and_compiles_as_often_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = WrappedFlexAttention(True)
    quick = torch.compile(flex_attention, backend="eager")
    monkeypatch.setattr(wrapper, "_compiled_flex_attention", quick)
    graphs = []
    for folder in (None, tmp_path / "flex"):
        torch._dynamo.reset()
        counters.clear()
        flex = trained(frozen_below_the_head("flex_attention"), folder)
        graphs.append(counters["stats"]["unique_graphs"])

    direct = trained(frozen_below_the_head("sdpa"), tmp_path / "sdpa")

    assert graphs[0] == graphs[1] > 0
    for key in KEYS:
        assert flex.series(key) == pytest.approx(direct.series(key), rel=1e-3)
    assert wrapper._compiled_flex_attention is quick


def test_the_names_stand_for_their_own_functions_after_the_pass(names: dict[str, Any]) -> None:
    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}
    interception = AttentionInterception(lambda sample: None, lambda spent_s: None)
    interception.find_patch_points(nn.Identity())

    interception.start()
    replaced = {name for name in before if ALL_ATTENTION_FUNCTIONS[name] is not before[name]}
    interception.stop()

    assert {"hand_made", "flash_attention_2", "flex_attention"} <= replaced
    assert "sdpa" not in replaced
    assert all(ALL_ATTENTION_FUNCTIONS[name] is before[name] for name in before)


def test_a_bound_method_under_a_name_is_called_as_it_is(names: dict[str, Any]) -> None:
    AttentionInterface.register("hand_made", names["hand_made"].__call__)
    samples: list[Any] = []
    interception = AttentionInterception(samples.append, lambda spent_s: None)
    interception.find_patch_points(nn.Identity())
    q = torch.randn(1, 2, 4, 8)

    interception.start()
    output, _ = ALL_ATTENTION_FUNCTIONS["hand_made"](nn.Identity(), q, q, q, None, scaling=1.0)
    interception.stop()

    assert output.shape == (1, 4, 2, 8)
    assert torch.allclose(logits_of([samples[0]()])[0], names["hand_made"].logits[0], atol=1e-6)


def test_the_library_is_not_imported_to_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils")
    interception = AttentionInterception(lambda sample: None, lambda spent_s: None)
    before = ALL_ATTENTION_FUNCTIONS["flash_attention_2"]

    interception.find_patch_points(nn.Identity())
    interception.start()
    during = ALL_ATTENTION_FUNCTIONS["flash_attention_2"]
    interception.stop()

    assert "transformers.modeling_utils" not in sys.modules
    assert during is before
