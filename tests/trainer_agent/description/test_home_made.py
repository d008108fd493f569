"""Home-made blocks are understood by their structure, or named as missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from dslm.position_bias import bias_at
from dslm.spec import Residual, Rotary
from tests.trainer_agent.description.home_made import (
    HEADS,
    SEQ,
    WIDTH,
    BiasedAttention,
    Block,
    CappedAttention,
    Experts,
    FeedForward,
    GatedFeedForward,
    Model,
    NormedAttention,
    PackedAttention,
    PrefixAttention,
    RMSNorm,
    RotaryAttention,
    WindowedAttention,
    WrittenAttention,
    batch,
)
from trainer_agent.description import Architecture, BlockParts, architecture


def described(block: nn.Module) -> Architecture:
    return architecture(Model(block), (), batch())


def parts_of(block: nn.Module) -> BlockParts:
    recognised = described(block)
    assert recognised.missing == ()
    (parts,) = recognised.stacks[0].parts
    assert parts is not None
    return parts


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "branch", "parallel"])
def test_norm_placement_and_residual_are_read_from_the_sums(placement: str) -> None:
    block = Block(WrittenAttention(), FeedForward(), placement)
    block.lam, block.beta = 0.9, 0.5

    parts = parts_of(block)

    assert parts.placement == placement
    assert parts.attention_residual == Residual(lam=0.9, beta=0.5, p_drop=0.1)
    # parallel branches share one stream, whose factor the attention's residual holds
    second_lam = 1.0 if placement == "parallel" else 0.9
    assert parts.feed_forward_residual == Residual(lam=second_lam, beta=0.5, p_drop=0.1)
    assert (parts.attention_norm.weight, parts.feed_forward_norm.weight) == (
        "blocks.0.ln1.weight",
        "blocks.0.ln2.weight",
    )
    second = (parts.attention_out_norm, parts.feed_forward_out_norm)
    names = [norm and norm.weight for norm in second]
    sandwiched = ["blocks.0.ln3.weight", "blocks.0.ln4.weight"]
    assert names == (sandwiched if placement == "sandwich" else [None, None])


@pytest.mark.parametrize(("causal", "stack"), [(True, "decoder"), (False, "encoder")])
def test_written_attention_is_causal_when_its_mask_is(causal: bool, stack: str) -> None:
    recognised = described(Block(WrittenAttention(causal), FeedForward()))

    assert recognised.stacks[0].name == stack
    parts = recognised.stacks[0].parts[0]
    assert parts is not None
    assert parts.causal is causal


def test_written_attention_gives_heads_scale_dropout_and_slices() -> None:
    attention = parts_of(Block(WrittenAttention(p_drop=0.3), FeedForward())).attention

    assert (attention.n_heads, attention.d_head) == (HEADS, WIDTH // HEADS)
    assert attention.score_scale == pytest.approx(1 / math.sqrt(WIDTH // HEADS), rel=1e-5)
    assert attention.p_drop == pytest.approx(0.3)
    slices = [p.outputs for p in (attention.query, attention.key, attention.value)]
    assert slices == [((0, 32),), ((32, 64),), ((64, 96),)]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dropout_counts_in_training_mode_alone(mode: str) -> None:
    model = Model(Block(WrittenAttention(), FeedForward()))
    getattr(model, mode)()

    (parts,) = architecture(model, (), batch()).stacks[0].parts

    assert parts is not None
    on = 1.0 if mode == "train" else 0.0
    assert parts.attention.p_drop == pytest.approx(0.1 * on)
    assert parts.feed_forward.p_drop == pytest.approx(0.2 * on)
    assert parts.attention_residual.p_drop == pytest.approx(0.1 * on)


def test_complex_rotary_and_grouped_heads_are_read_from_their_numbers() -> None:
    attention = parts_of(Block(RotaryAttention(theta=500.0), FeedForward())).attention

    assert attention.rotary == Rotary(theta=500.0, fraction=1.0)
    assert (attention.n_heads, attention.n_kv_heads) == (4, 2)
    assert (attention.key.outputs, attention.value.outputs) == (((0, 16),), ((16, 32),))


def test_soft_cap_is_read_from_the_scores() -> None:
    attention = parts_of(Block(CappedAttention(), FeedForward())).attention

    assert attention.soft_cap == pytest.approx(0.05, rel=1e-4)
    assert attention.score_scale == pytest.approx(8**-0.5, rel=1e-4)


@pytest.mark.parametrize(("causal", "window"), [(True, 3), (False, 2)])
def test_window_is_read_from_the_mask(causal: bool, window: int) -> None:
    attention = parts_of(Block(WindowedAttention(causal), FeedForward())).attention

    assert (attention.causal, attention.window) == (causal, window)


def test_norms_on_queries_and_keys_are_found() -> None:
    attention = parts_of(Block(NormedAttention(), FeedForward())).attention

    assert attention.query_norm == attention.key_norm
    assert attention.query_norm is not None
    assert attention.query_norm.kind == "layernorm"
    assert attention.query.outputs == ((0, 32),)


@pytest.mark.parametrize(
    ("written", "activation"),
    [
        ("gelu", "gelu"),
        ("gelu tanh", "gelu_tanh"),
        ("gelu by hand", "gelu"),
        ("relu", "relu"),
        ("silu", "silu"),
        ("tanh", "tanh"),
        ("quick gelu", "quick_gelu"),
        ("relu squared", "relu_squared"),
    ],
)
def test_activation_is_told_from_its_numbers(written: str, activation: str) -> None:
    feed_forward = parts_of(Block(WrittenAttention(), FeedForward(written))).feed_forward

    assert feed_forward.activation == activation
    assert feed_forward.gate is None


def test_fused_gate_and_up_are_told_apart() -> None:
    feed_forward = parts_of(Block(WrittenAttention(), GatedFeedForward())).feed_forward

    assert feed_forward.activation == "silu"
    assert feed_forward.gate is not None
    assert feed_forward.gate.outputs == ((0, 96),)
    assert feed_forward.up.outputs == ((96, 192),)


def test_home_made_norm_is_told_from_its_numbers() -> None:
    norm = parts_of(Block(WrittenAttention(), FeedForward(), norm=RMSNorm)).attention_norm

    assert (norm.kind, norm.weight, norm.bias) == ("rmsnorm", "blocks.0.ln1.weight", None)
    assert norm.eps == pytest.approx(1e-6)


def test_a_bias_by_distance_is_told_from_its_numbers() -> None:
    bias = parts_of(Block(BiasedAttention(), FeedForward())).attention.position_bias

    assert bias is not None
    assert bias.table is None
    at = np.arange(SEQ)
    np.testing.assert_allclose(bias_at(bias.observed, at)[0], -0.5 * at, atol=1e-5)
    assert sum(bias.observed.heads) == HEADS


def test_a_prefix_that_all_see_is_found() -> None:
    attention = parts_of(Block(PrefixAttention(), FeedForward())).attention

    assert (attention.causal, attention.prefix) == (True, 3)


def test_rotation_at_rates_of_its_own_is_told_from_its_numbers() -> None:
    rotary = parts_of(Block(RotaryAttention(stretch=1.5), FeedForward())).attention.rotary

    assert rotary is not None
    rates = 500.0 ** (-np.arange(4) / 4) * np.array([1, 1.5, 1, 1])
    assert rotary.frequencies == pytest.approx(rates.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("block", "what"),
    [
        (lambda: Block(NormedAttention(keys=False), FeedForward()), "qk-norm"),
        (lambda: Block(BiasedAttention(by_content=True), FeedForward()), "attention scores"),
        (lambda: Block(PackedAttention(), FeedForward()), "attention mask"),
        (lambda: Block(WrittenAttention(), FeedForward("sine")), "activation"),
        (lambda: Block(WrittenAttention(), FeedForward("selu")), "activation selu"),
        (lambda: Block(WrittenAttention(), Experts(cubed=True)), "mixture of experts"),
        (lambda: Block(FeedForward(), WrittenAttention()), "order of branches"),
        (lambda: Block(WrittenAttention(), FeedForward(), norm=nn.Identity), "no norm"),
    ],
)
def test_what_the_theory_does_not_know_is_named_and_not_guessed(block: object, what: str) -> None:
    assert callable(block)

    recognised = described(block())

    (missing,) = recognised.missing
    assert what in missing.what
    assert missing.where.startswith("blocks.0")
    assert missing.why
    assert recognised.stacks[0].parts == (None,)


def test_one_unknown_block_leaves_the_others_known() -> None:
    blocks = [Block(WrittenAttention(), FeedForward()) for _ in range(3)]
    blocks[1] = Block(WrittenAttention(), Experts(cubed=True))

    recognised = architecture(Model(*blocks), (), batch())

    assert [p is None for p in recognised.stacks[0].parts] == [False, True, False]
    assert [m.where.split(".")[1] for m in recognised.missing] == ["1"]


def test_a_shared_block_is_missing_and_a_model_without_blocks_too() -> None:
    shared = Block(WrittenAttention(), FeedForward())

    assert architecture(Model(), (), batch()).missing[0].what == "blocks"
    model = Model(shared)
    model.forward = lambda ids: shared(shared(model.tokens(ids)))  # type: ignore[method-assign]
    assert architecture(model, (batch()["ids"],)).missing[0].what == "shared block"
