"""Logits sampled from the attention call against logits computed directly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import batch, built, loss_of
from trainer_agent.capture.attention.function_mode import AttentionFunctionMode
from trainer_agent.capture.statistics.accumulator import Accumulator
from trainer_agent.capture.statistics.logits import (
    PendingLogits,
    logit_sums,
    logits_of,
    sampled_scores,
)
from trainer_agent.description.read.recognition import Recognition
from trainer_agent.model.plan import Plan, StackPlan


def sampled(call: Any) -> list[Tensor]:
    """Logits that the function mode samples of whatever `call` computes."""
    samples: list[Tensor] = []
    with AttentionFunctionMode(lambda take: samples.append(logits_of([take()])[0])):
        call()
    return samples


def masks(kind: str, n: int) -> dict[str, Any]:
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    return {
        "none": {},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": causal},
        "additive": {"attn_mask": torch.zeros(n, n).masked_fill(~causal, float("-inf"))},
    }[kind]


@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive"])
@pytest.mark.parametrize("n", [5, 8, 19])
def test_sampled_logits_are_rows_of_the_full_ones(kind: str, n: int) -> None:
    q, k, v = torch.randn(3, 2, 2, n, 4).unbind()
    arguments = masks(kind, n)
    full = q @ k.transpose(-2, -1) / math.sqrt(4)
    if kind != "none":
        full = full.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), float("-inf"))

    (logits,) = sampled(lambda: functional.scaled_dot_product_attention(q, k, v, **arguments))

    rows = list(range(n))[(n - 1) % -(-n // 8) :: -(-n // 8)]
    assert len(rows) <= 8 and rows[-1] == n - 1
    assert torch.allclose(logits, full[:, :, rows], atol=1e-6)


def test_grouped_queries_meet_their_own_keys() -> None:
    q, k, v = torch.randn(1, 4, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    full = q @ k.repeat_interleave(2, dim=1).transpose(-2, -1)

    (logits,) = sampled(
        lambda: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=1.0)
    )

    assert torch.allclose(logits, full, atol=1e-6)


def test_a_plain_softmax_over_scores_is_sampled() -> None:
    scores = torch.randn(2, 3, 4, 4)

    assert torch.equal(sampled(lambda: scores.softmax(-1))[0], scores)
    assert torch.equal(sampled(lambda: torch.softmax(scores, dim=-1))[0], scores)
    assert torch.equal(sampled(lambda: functional.softmax(scores, dim=-1))[0], scores)


@pytest.mark.parametrize("masked", [float("-inf"), torch.finfo(torch.float32).min])
def test_logit_sums_equal_statistics_of_the_allowed_logits(masked: float) -> None:
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    allowed[2] = False  # a query that sees nothing, as padding has
    logits = torch.randn(2, 1, 3, 6, 6).masked_fill(~allowed, masked)

    sums, largest = logit_sums(logits, torch.float64)

    counted = logits[0][..., allowed].double()
    weights = logits[0].double().softmax(-1)
    entropy = -torch.where(allowed, weights * weights.log(), 0.0).sum(-1)[..., allowed.any(-1)]
    expected = [
        counted.numel(),
        counted.sum(),
        counted.square().sum(),
        entropy.numel(),
        entropy.sum(),
    ]
    assert sums[0].numpy() == pytest.approx(
        np.array([float(value) for value in expected]), rel=1e-5
    )
    assert float(largest[0]) == float(counted.max())


def test_logits_of_a_model_are_those_of_its_blocks(tmp_path: Path) -> None:
    model, _ = built()
    inputs: list[Tensor] = []
    for block in model.blocks:
        block.qkv.register_forward_hook(lambda _, __, out: inputs.append(out.detach()))
    agent, transport = recorded(model, tmp_path)

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    maxima = transport.series("decoder/attention_logits/max")
    assert maxima == pytest.approx([largest_logit(qkv) for qkv in inputs[-3:]], rel=1e-4)


def largest_logit(qkv: Tensor) -> float:
    q, k, _ = (part.view(*qkv.shape[:2], 2, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    return float(logits[..., causal].max())


def test_attention_that_cannot_be_intercepted_is_nan(tmp_path: Path) -> None:
    model, _ = built()
    for block in model.blocks:
        block.attend = lambda x: x
    agent, transport = recorded(model, tmp_path)

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    for quantity in ("max", "variance", "entropy"):
        assert np.isnan(transport.series(f"decoder/attention_logits/{quantity}")).all()


def test_logits_sampled_out_of_order_land_on_their_own_rows() -> None:
    plan = Plan((StackPlan("decoder", ("a", "b", "c"), (None,) * 3, (None,) * 3),))
    accumulator = Accumulator(plan, torch.device("cpu"))
    pending = PendingLogits(accumulator)

    for row in (2, 0, 1):
        pending.add(row, sampled_scores(torch.full((1, 1, 1, 4), float(row))))
    pending.add(1, sampled_scores(torch.full((1, 1, 1, 4), 5.0)))
    pending.flush()

    assert accumulator.take()().logit_max.tolist() == [0.0, 5.0, 2.0]


def observed_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Torch functions that the mode sees from here on."""
    observed: list[Any] = []
    dispatch = AttentionFunctionMode.__torch_function__

    def noting(mode: AttentionFunctionMode, func: Any, *arguments: Any) -> Any:
        observed.append(func)
        return dispatch(mode, func, *arguments)

    monkeypatch.setattr(AttentionFunctionMode, "__torch_function__", noting)
    return observed


def test_only_calls_between_the_projections_are_observed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    loss_of(model, batch(0)).backward()
    agent.step()  # shows where the projections are
    observed = observed_calls(monkeypatch)

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    assert observed.count(functional.scaled_dot_product_attention) == len(model.blocks)
    assert functional.gelu not in observed and functional.linear not in observed
    assert np.isfinite(transport.series("decoder/attention_logits/entropy")).all()


def test_attention_is_looked_for_in_the_whole_block_where_its_place_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Recognition, "_architecture", refuse)
    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    loss_of(model, batch(0)).backward()
    agent.step()
    observed = observed_calls(monkeypatch)

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    assert functional.gelu in observed
    assert not {functional.embedding, functional.cross_entropy} & set(observed)
    assert np.isfinite(transport.series("decoder/attention_logits/entropy")).all()
