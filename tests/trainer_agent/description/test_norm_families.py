"""Families whose norms, activations or rotations stand apart are recognised and predicted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import measured
from tests.trainer_agent.description.more_families import batch_for
from tests.trainer_agent.description.norm_families import BUILDERS, with_random_gains
from trainer_agent.description import BlockParts, architecture

KNOWN = {
    "clip": ("pre", "quick_gelu", "layernorm"),
    "modernbert": ("pre", "gelu", "layernorm"),
    "cohere": ("parallel", "silu", "layernorm"),
    "stablelm": ("pre", "silu", "layernorm"),
    "esm": ("pre", "gelu", "layernorm"),
    "nemotron": ("pre", "relu_squared", "layernorm"),
}


def blocks_of(name: str, model: nn.Module | None = None) -> tuple[BlockParts, ...]:
    """The blocks of a two-layer model, each understood."""
    recognised = architecture(model or BUILDERS[name](2, 64), (), batch_for(name))
    assert recognised.missing == ()
    (stack,) = recognised.stacks
    return tuple(parts for parts in stack.parts if parts is not None)


@pytest.mark.parametrize("name", BUILDERS)
def test_family_is_recognised_by_structure(name: str) -> None:
    parts = blocks_of(name)[1]

    assert parts.attention_norm is not None
    kinds = (parts.placement, parts.feed_forward.activation, parts.attention_norm.kind)
    assert kinds == KNOWN[name]
    assert parts.causal == (name not in {"modernbert", "esm"})
    assert parts.attention.score_scale == pytest.approx(16**-0.5, rel=1e-4)


def test_attention_without_a_norm_is_found_where_it_is() -> None:
    first, second = blocks_of("modernbert")

    assert first.attention_norm is None
    assert second.attention_norm is not None


def test_rotation_is_told_from_the_factor_before_it() -> None:
    attention = blocks_of("esm")[0].attention

    assert attention.rotary is not None
    assert (attention.rotary.theta, attention.rotary.scale) == (10000.0, 1.0)


@pytest.mark.parametrize("name", ["cohere", "stablelm"])
def test_gains_of_each_heads_norm_are_all_counted(name: str) -> None:
    model = with_random_gains(BUILDERS[name](2, 64))
    gains = [
        p.detach()
        for n, p in model.named_parameters()
        if "layers.0" in n and "q_" in n and "norm" in n
    ]
    mean, square = (torch.cat([g.flatten() for g in gains]) ** k for k in (1, 2))

    block = trainer_agent.describe(model, batch_for(name)).stacks["decoder"].blocks[0]

    assert block is not None and block.attention.query_norm is not None
    norm = block.attention.query_norm
    assert norm.gain_mean == pytest.approx(float(mean.mean()), rel=1e-4)
    expected = float(square.mean() - mean.mean() ** 2)
    assert norm.gain_var == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "gains"),
    [*((name, "as built") for name in BUILDERS), ("cohere", "random"), ("stablelm", "random")],
)
def test_family_is_predicted_within_one_draws_scatter(name: str, gains: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name](6, 128).train()
    model = with_random_gains(model) if gains == "random" else model
    batch = batch_for(name)
    spec = trainer_agent.describe(model, batch)
    (stack,) = dslm.predict(spec).stacks.values()
    blocks = architecture(model, (), batch).stacks[0].blocks

    measurement = measured(model, blocks, batch)

    forward = np.abs(stack.forward.variance / measurement.forward - 1)
    backward = np.abs(stack.backward.variance / measurement.backward - 1)
    # one draw at d = 128: a layer scatters by sqrt(2/d) = 12 %, and layers add up
    assert np.median(forward) < 0.15
    assert np.median(backward) < 0.2
    assert max(forward.max(), backward.max()) < 0.5
    assert np.abs(stack.forward.correlation - measurement.correlation).max() < 0.1
