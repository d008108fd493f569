"""Attention of every kind against random models: QK-norm, soft cap, window, cross-attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dslm
from dslm import Attention, CrossAttention, ModelSpec, Norm, SpecError, Stack
from tests.dslm.simulation import Measured, kernel_of, simulate
from tests.dslm.specs import predict, spec_of, stack

BATCH, SEQ_LEN, D_MODEL, DRAWS = 4, 32, 128, 5
RMS = Norm("rmsnorm", eps=1e-6)
Floats = np.ndarray[Any, np.dtype[np.float64]]


def with_attention(decoder: Stack, **changed: Any) -> Stack:
    blocks = []
    for block in decoder.blocks:
        assert block is not None
        blocks.append(replace(block, attention=replace(block.attention, **changed)))
    return replace(decoder, blocks=tuple(blocks))


def tokens(rng: np.random.Generator, n: int = SEQ_LEN) -> Floats:
    table, ids = rng.standard_normal((12, D_MODEL)), rng.integers(0, 12, (BATCH, n))
    return 0.8 * table[ids] + 0.6 * rng.standard_normal((n, D_MODEL))


def predict_and_simulate(
    decoder: Stack, rng: np.random.Generator
) -> tuple[dslm.StackPrediction, Measured]:
    x = tokens(rng)
    g = rng.standard_normal(x.shape)
    seeded = replace(decoder, input_kernel=kernel_of(x), top_gradient_kernel=kernel_of(g))
    return predict(seeded, BATCH), simulate(decoder, x, g, rng)


def worst(pairs: list[tuple[Floats, Floats]]) -> float:
    return float(np.abs(np.mean([np.log(a / b) for a, b in pairs], axis=0)).max())


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qk norm": ({"std": 0.2}, {"query_norm": RMS, "key_norm": RMS}),
    "qk norm on a bare stream": (
        {"std": 0.2, "placement": "branch", "norm": "rmsnorm"},
        {"query_norm": RMS, "key_norm": RMS},
    ),
    "soft cap": ({"std": 0.09}, {"soft_cap": 1.0}),
    "causal window": ({}, {"window": 5}),
    "window to both sides": ({"causal": False}, {"window": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_attention_of_each_kind_matches_random_models(kind: str, rng: np.random.Generator) -> None:
    how, changed = KINDS[kind]
    decoder = with_attention(stack(3, SEQ_LEN, D_MODEL, **how), **changed)

    drawn = [predict_and_simulate(decoder, rng) for _ in range(DRAWS)]

    shifts = [p.forward.correlation - m.correlation for p, m in drawn]
    assert worst([(p.forward.variance, m.variance) for p, m in drawn]) < 0.08
    assert worst([(p.backward.variance, m.grad_variance) for p, m in drawn]) < 0.12
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.04


def test_attention_on_the_bare_stream_matches_random_models(rng: np.random.Generator) -> None:
    plain = stack(3, SEQ_LEN, D_MODEL)
    first = plain.blocks[0]
    assert first is not None
    decoder = replace(plain, blocks=(replace(first, attention_norm=None), *plain.blocks[1:]))

    drawn = [predict_and_simulate(decoder, rng) for _ in range(DRAWS)]

    assert worst([(p.forward.variance, m.variance) for p, m in drawn]) < 0.08
    assert worst([(p.backward.variance, m.grad_variance) for p, m in drawn]) < 0.12


def test_a_window_as_long_as_the_sequence_changes_nothing() -> None:
    decoder = stack(3)
    a, b = predict(decoder), predict(with_attention(decoder, window=32))
    np.testing.assert_allclose(a.forward.correlation, b.forward.correlation)
    np.testing.assert_allclose(a.backward.variance, b.backward.variance)


def test_a_window_of_one_token_attends_to_itself() -> None:
    decoder = with_attention(stack(1, causal=True), window=1)
    gain = (128 * 0.08**2) ** 2
    assert predict(decoder).attention_variance[0] == pytest.approx(gain, rel=1e-4)


def test_a_high_soft_cap_changes_nothing() -> None:
    decoder = stack(3)
    a, b = predict(decoder), predict(with_attention(decoder, soft_cap=1e4))
    np.testing.assert_allclose(a.forward.variance, b.forward.variance, rtol=1e-6)
    np.testing.assert_allclose(a.backward.variance, b.backward.variance, rtol=1e-6)


def test_qk_norm_makes_scores_forget_the_size_of_their_weights() -> None:
    normed = {"query_norm": replace(RMS, eps=0.0), "key_norm": replace(RMS, eps=0.0)}
    small, large = (with_attention(stack(3, std=0.08), **normed) for _ in range(2))
    block = large.blocks[0]
    assert block is not None
    query = replace(block.attention.query, weight_var=9.0)
    large = with_attention(large, query=query)
    np.testing.assert_allclose(
        predict(small).forward.correlation, predict(large).forward.correlation
    )


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_encoder_decoder_matches_random_models(placement: str, rng: np.random.Generator) -> None:
    spec = encoder_decoder(placement)
    encoder, decoder = spec.stacks["encoder"], spec.stacks["decoder"]
    pairs: dict[str, list[tuple[Floats, Floats]]] = {"forward": [], "backward": [], "encoder": []}
    for _ in range(DRAWS):
        x, y = tokens(rng, 24), tokens(rng)
        g = rng.standard_normal(y.shape)
        inner = simulate(encoder, x, rng.standard_normal(x.shape), rng)
        outer = simulate(decoder, y, g, rng, inner.output)
        seeded = {
            "encoder": replace(encoder, input_kernel=kernel_of(x)),
            "decoder": replace(
                decoder, input_kernel=kernel_of(y), top_gradient_kernel=kernel_of(g)
            ),
        }
        p = dslm.predict(replace(spec, stacks=seeded)).stacks
        pairs["forward"].append((p["decoder"].forward.variance, outer.variance))
        pairs["backward"].append((p["decoder"].backward.variance, outer.grad_variance))
        sent = sent_to_encoder(seeded["encoder"], seeded["decoder"])
        pairs["encoder"].append((np.array(sent), np.array(np.square(outer.grad_memory).mean())))

    assert worst(pairs["forward"]) < 0.08
    assert worst(pairs["backward"]) < 0.15
    assert worst(pairs["encoder"]) < 0.15


def sent_to_encoder(encoder: Stack, decoder: Stack) -> float:
    """The energy of the gradient at the encoder's output, per entry."""
    from dslm.kernels.grid import mean_diagonal
    from dslm.kernels.stack import memory_of, stack_backward, stack_forward

    memory = memory_of(encoder, stack_forward(encoder))
    sent = stack_backward(decoder, stack_forward(decoder, memory)).memory
    assert sent is not None
    return mean_diagonal(sent)


def encoder_decoder(placement: str = "pre") -> ModelSpec:
    encoder = stack(2, 24, D_MODEL, placement=placement, causal=False, std=0.06)
    decoder = stack(3, SEQ_LEN, D_MODEL, placement=placement, std=0.06)
    blocks = []
    for block in decoder.blocks:
        assert block is not None
        attention = replace(block.attention, causal=False)
        cross = CrossAttention(attention, block.attention_norm, block.attention_residual)
        blocks.append(replace(block, cross=cross))
    decoder = replace(decoder, blocks=tuple(blocks), reads="encoder")
    return ModelSpec("custom", {"decoder": decoder, "encoder": encoder}, batch_size=BATCH)


def test_encoder_gradient_is_that_which_the_decoder_sends_back() -> None:
    spec = encoder_decoder()
    blocks = []
    for block in spec.stacks["decoder"].blocks:
        assert block is not None and block.cross is not None
        cold = replace(block.cross.attention, score_scale=1e-3)
        blocks.append(replace(block, cross=replace(block.cross, attention=cold)))
    decoder = replace(spec.stacks["decoder"], blocks=tuple(blocks))

    p = dslm.predict(replace(spec, stacks={**spec.stacks, "decoder": decoder})).stacks

    # cold cross-attention spreads a gradient evenly: tokens' gradients at the top are the same
    assert p["encoder"].backward.correlation[-1] > 0.99
    assert np.isfinite(p["encoder"].backward.variance).all()


def test_decoder_of_an_encoder_not_understood_is_missing_by_name() -> None:
    spec = encoder_decoder()
    encoder = spec.stacks["encoder"]
    broken = replace(encoder, blocks=(encoder.blocks[0], None))

    p = dslm.predict(replace(spec, stacks={**spec.stacks, "encoder": broken}))

    assert np.isnan(p.stacks["decoder"].forward.variance[1:]).all()
    assert any(m.where == "decoder.blocks[0].cross" for m in p.missing)


def test_encoder_decoder_spec_survives_json() -> None:
    spec = encoder_decoder()
    body = dslm.spec_to_json(spec)
    assert dslm.spec_to_json(dslm.spec_from_json(body)) == body


def refused(spec: ModelSpec) -> str:
    with pytest.raises(SpecError) as raised:
        dslm.validate(spec)
    return raised.value.field


def test_impossible_attention_is_refused_by_field() -> None:
    at = "stacks.decoder.blocks[0].attention"
    assert refused(spec_of(with_attention(stack(1), soft_cap=0.0))) == f"{at}.soft_cap"
    assert refused(spec_of(with_attention(stack(1), window=0))) == f"{at}.window"
    negative = replace(RMS, eps=-1.0)
    assert refused(spec_of(with_attention(stack(1), key_norm=negative))) == f"{at}.key_norm.eps"


def test_impossible_cross_attention_is_refused_by_field() -> None:
    spec = encoder_decoder()
    decoder = spec.stacks["decoder"]
    alone = replace(decoder, reads=None)
    assert refused(ModelSpec("custom", {"decoder": alone})) == "stacks.decoder.reads"
    assert refused(ModelSpec("custom", {"decoder": decoder})) == "stacks.decoder.reads"
    block = decoder.blocks[0]
    assert block is not None and block.cross is not None
    masked: Attention = replace(block.cross.attention, causal=True)
    causal = replace(block, cross=replace(block.cross, attention=masked))
    changed = {**spec.stacks, "decoder": replace(decoder, blocks=(causal,))}
    field = "stacks.decoder.blocks[0].cross.attention"
    assert refused(replace(spec, stacks=changed)) == field
