"""Mixtures of experts: gates' moments, and the branch they make, against simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm.errors import SpecError
from dslm.kernels.feed_forward import feed_forward, feed_forward_backward
from dslm.kernels.routing import gate_products, gate_slopes
from dslm.spec import Experts, FeedForward, Kernel, Linear
from tests.dslm.specs import spec_of, stack

WIDTH = 256


def experts_of(
    n: int, k: int, gate: Any = "softmax", normalised: bool = True, std: float = 0.05, **more: Any
) -> Experts:
    return Experts(Linear(WIDTH, n, std**2), k, gate, normalised, **more)


def pair(correlation: float) -> Kernel:
    off = np.array([[1.0, correlation], [correlation, 1.0]])
    return Kernel(np.ones(2), off, np.ones(2, dtype=np.int64))


def gates_of(scores: torch.Tensor, experts: Experts) -> torch.Tensor:
    """Each token's gates as models write them."""
    share = scores.softmax(-1) if experts.gate == "softmax" else scores.sigmoid()
    allowed = share
    if experts.top_groups < experts.groups:
        grouped = share.reshape(len(share), experts.groups, -1)
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(experts.top_groups).indices
        mask = torch.zeros(len(share), experts.groups).scatter(1, best, 1.0).unsqueeze(-1)
        allowed = (grouped * mask).reshape(share.shape)
    chosen = allowed.topk(experts.top_k).indices
    weights = share.gather(1, chosen)
    if experts.normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return torch.zeros_like(share).scatter(1, chosen, weights * experts.scale)


KINDS = [
    experts_of(8, 2),
    experts_of(8, 2, normalised=False, std=0.1),
    experts_of(16, 4, "sigmoid", scale=2.5),
    experts_of(16, 3, "sigmoid", normalised=False),
    experts_of(16, 4, "sigmoid", groups=4, top_groups=2),
]


@pytest.mark.parametrize("experts", KINDS)
@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.9, 1.0])
def test_products_and_slopes_of_gates_match_simulation(
    experts: Experts, correlation: float
) -> None:
    torch.manual_seed(1)
    n, draws = experts.router.d_out, 60_000
    std = math.sqrt(WIDTH * experts.router.weight_var)
    first, second = torch.randn(2, draws, n)
    scores = std * torch.stack(
        [first, correlation * first + math.sqrt(1 - correlation**2) * second]
    ).flatten(0, 1)
    scores.requires_grad_()
    gates = gates_of(scores, experts)
    here, there = gates.detach().reshape(2, draws, n)
    cotangent = torch.randn(draws, n)  # E[(J c)_i (J c)_j] is the sum over J J
    (pulled,) = torch.autograd.grad(gates, scores, cotangent.repeat(2, 1))
    pulled_here, pulled_there = pulled.reshape(2, draws, n)

    products = gate_products(pair(correlation), experts).off_diagonal[0, 1]
    slopes = gate_slopes(pair(correlation), experts).off_diagonal[0, 1]

    # the table's draws, and its steps of 5 % in the scores' variance
    assert products == pytest.approx(float((here * there).sum(1).mean()), rel=0.02)
    assert slopes == pytest.approx(float((pulled_here * pulled_there).sum(1).mean()), rel=0.05)


def test_gates_of_equal_scores_are_even() -> None:
    even = experts_of(4, 4, std=0.0)

    assert gate_products(pair(0.3), even).diagonal == pytest.approx(1 / 4)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(2, 12), st.floats(0.01, 0.3), st.booleans(), st.sampled_from(["softmax", "sigmoid"])
)
def test_two_tokens_share_the_less_the_less_alike_they_are(
    n: int, std: float, normalised: bool, gate: str
) -> None:
    experts = experts_of(n, max(n // 3, 1), gate, normalised, std)

    shares = [gate_products(pair(c), experts).off_diagonal[0, 1] for c in (0.0, 0.3, 0.7, 1.0)]

    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(shares))
    assert shares[-1] == pytest.approx(gate_products(pair(0.5), experts).diagonal[0])


def branch(experts: Experts) -> FeedForward:
    return FeedForward(
        up=Linear(WIDTH, 2 * WIDTH, 0.06**2),
        down=Linear(2 * WIDTH, WIDTH, 0.05**2, 0.1**2),
        activation="silu",
        gate=Linear(WIDTH, 2 * WIDTH, 0.06**2),
        up_offset=1.0,
        experts=experts,
    )


def drawn(linear: Linear) -> torch.Tensor:
    return torch.randn(linear.d_out, linear.d_in, dtype=torch.float64) * linear.weight_var**0.5


def test_branch_of_routed_and_shared_experts_matches_simulation() -> None:
    torch.manual_seed(0)
    shared = FeedForward(Linear(WIDTH, WIDTH, 0.05**2), Linear(WIDTH, WIDTH, 0.05**2), "gelu")
    layer = branch(experts_of(8, 2, shared=shared, shared_gate=Linear(WIDTH, 1, 0.05**2), std=0.08))
    experts = layer.experts
    assert experts is not None and layer.gate is not None
    forward, backward = [], []
    for _ in range(12):
        base = torch.randn(64, 1, WIDTH, dtype=torch.float64)
        x = (0.5**0.5 * (base + torch.randn(64, 2, WIDTH, dtype=torch.float64))).requires_grad_()
        flat = x.reshape(-1, WIDTH)
        gates = gates_of((flat @ drawn(experts.router).T).float(), experts).double()
        y = torch.zeros_like(flat)
        for expert in range(8):
            up, gate, down = (drawn(m) for m in (layer.up, layer.gate, layer.down))
            bias = 0.1 * torch.randn(WIDTH, dtype=torch.float64)
            hidden = torch.nn.functional.silu(flat @ gate.T) * (flat @ up.T + 1)
            y = y + gates[:, expert : expert + 1] * (hidden @ down.T + bias)
        inner = torch.nn.functional.gelu(flat @ drawn(shared.up).T) @ drawn(shared.down).T
        y = (y + torch.sigmoid(flat @ drawn(Linear(WIDTH, 1, 0.05**2)).T) * inner).reshape(x.shape)
        g = torch.randn(64, 1, WIDTH, dtype=torch.float64).expand(64, 2, WIDTH) + torch.randn(
            64, 2, WIDTH, dtype=torch.float64
        )
        (below,) = torch.autograd.grad(y, x, g)
        for values, into in ((y.detach(), forward), (below, backward)):
            into.append([values.square().mean().item(), values.prod(1).mean().item()])

    predicted = feed_forward(pair(0.5), layer)
    twice = Kernel(2 * np.ones(2), np.array([[2.0, 1.0], [1.0, 2.0]]), np.ones(2, dtype=np.int64))
    below = feed_forward_backward(twice, pair(0.5), layer)

    for kernel, measured in ((predicted, forward), (below, backward)):
        mean, pairs = np.mean(measured, axis=0)
        assert kernel.diagonal[0] == pytest.approx(mean, rel=0.04)
        assert kernel.off_diagonal[0, 1] == pytest.approx(pairs, rel=0.08)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"top_k": 9}, "experts.top_k"),
        ({"gate": "tanh"}, "experts.gate"),
        ({"groups": 3}, "experts.groups"),
        ({"groups": 4, "top_groups": 5}, "experts.top_groups"),
        ({"groups": 8, "top_groups": 1}, "experts.top_k"),
        ({"scale": math.inf}, "experts.scale"),
        ({"router": Linear(3, 8, 1.0)}, "experts.router.d_in"),
        ({"shared_gate": Linear(128, 1, 1.0)}, "experts.shared"),
    ],
)
def test_impossible_router_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    decoder = stack(1)
    (block,) = decoder.blocks
    assert block is not None
    experts = replace(Experts(Linear(128, 8, 0.01), 2), **change)
    ff = replace(block.feed_forward, experts=experts)
    spec = spec_of(replace(decoder, blocks=(replace(block, feed_forward=ff),)))

    with pytest.raises(SpecError, match=field):
        dslm.predict(spec)


def test_routed_spec_survives_json_and_asks_for_no_deepscale() -> None:
    decoder = stack(2)
    ff = decoder.blocks[0].feed_forward  # type: ignore[union-attr]
    experts = Experts(Linear(128, 8, 0.01), 2, "sigmoid", False, 2.0, shared=ff)
    blocks = tuple(
        replace(b, feed_forward=replace(ff, experts=experts)) for b in decoder.blocks if b
    )
    spec = spec_of(replace(decoder, blocks=blocks))

    again = dslm.spec_from_json(dslm.spec_to_json(spec))

    assert again.stacks["decoder"].blocks == blocks
    with pytest.raises(SpecError, match="experts"):
        dslm.deepscale(spec)
    assert dslm.predict(again).missing == ()
