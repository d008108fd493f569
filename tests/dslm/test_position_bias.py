"""Biases by distance, prefixes and scaled rotations: against random models and brute sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm import PositionBias, Rotary, SpecError, alibi, alibi_slopes
from dslm.kernels.grid import dense
from dslm.kernels.softmax import attend, attend_backward, attention_weights
from dslm.masks.head_masks import head_masks
from dslm.masks.weighted_mask import WeightedMask
from dslm.position_bias import MOST_GROUPS, bias_at, head_groups, with_heads
from tests.dslm.simulation import bias_of, visible
from tests.dslm.specs import block, predict, spec_of, stack
from tests.dslm.test_attention_kinds import (
    D_MODEL,
    SEQ_LEN,
    Floats,
    predict_and_simulate,
    with_attention,
    worst,
)

# four heads: one that sees near alone, two alike, one that prefers what is far; bumps as learned
BUMPS = PositionBias((-31, -4, 0, 3, 31), ((1, -2, 0, 1, 2), (0, 1, 1, -1, -3)), (1, 3))
YARN = Rotary(frequencies=(1.0, 0.3, *(0.02,) * 14), scale=1.3)
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alibi": ({}, {"position_bias": alibi(alibi_slopes(4))}),
    "alibi, hot": ({"std": 0.16}, {"position_bias": alibi(alibi_slopes(4))}),
    "learned curve, both sides": ({"causal": False}, {"position_bias": BUMPS}),
    "learned curve, causal, Post-LN": ({"placement": "post"}, {"position_bias": BUMPS}),
    "prefix and bias": ({}, {"prefix": 12, "position_bias": BUMPS}),
    "scaled rotation": ({"std": 0.12}, {"rotary": YARN}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_matches_random_models(kind: str, rng: np.random.Generator) -> None:
    how, changed = KINDS[kind]
    decoder = with_attention(stack(3, SEQ_LEN, D_MODEL, **how), **changed)

    drawn = [predict_and_simulate(decoder, rng) for _ in range(3)]

    shifts = [p.forward.correlation - m.correlation for p, m in drawn]
    assert worst([(p.forward.variance, m.variance) for p, m in drawn]) < 0.08
    assert worst([(p.backward.variance, m.grad_variance) for p, m in drawn]) < 0.12
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.04


def brute(layer: dslm.Attention, n: int) -> Floats:
    """W of every token pair, rows scaled as the mask's."""
    w = np.exp(bias_of(layer, n, n)[0]) * visible(layer, n, n)
    return np.asarray(w * (w.sum(1) / np.square(w).sum(1))[:, None])


def mask_on(sizes: list[int], layer: dslm.Attention) -> WeightedMask:
    ones = np.ones((len(sizes), len(sizes)))
    x = dslm.Kernel(ones[0], ones, np.array(sizes, dtype=np.int64))
    ((_, mask),) = head_masks(x, x, layer)
    assert isinstance(mask, WeightedMask)
    return mask


def layer_with(**changed: Any) -> dslm.Attention:
    return replace(block().attention, n_heads=1, **changed)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 24),
    steps=st.lists(st.floats(-3, 3), min_size=2, max_size=4),
    causal=st.booleans(),
    prefix=st.integers(0, 8),
)
def test_sums_on_single_tokens_are_brute_sums(
    n: int, steps: list[float], causal: bool, prefix: int
) -> None:
    bias = PositionBias(tuple(range(len(steps))), (tuple(steps),), (1,))
    layer = layer_with(position_bias=bias, causal=causal, prefix=prefix * causal)
    w = brute(layer, n)
    mask, v = mask_on([1] * n, layer), np.random.default_rng(n).standard_normal((n, n))

    np.testing.assert_allclose(mask.keys(v), w @ v, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mask.queries(v, 1), v @ w, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mask.common_keys(v[0]), (w * v[0]) @ w.T, rtol=1e-9, atol=1e-9)
    every = mask.all_queries(np.diagonal(v), v)
    np.testing.assert_allclose(every, w.T @ v @ w, rtol=1e-9, atol=1e-9)


def test_sums_over_wide_cells_are_means_of_brute_sums() -> None:
    sizes = [1, 1, 3, 6, 9, 12]
    layer = layer_with(position_bias=alibi((0.2,)))
    starts = np.cumsum([0, *sizes[:-1]])
    w = np.exp(bias_of(layer, 32, 32)[0]) * visible(layer, 32, 32)

    sums = np.add.reduceat(np.add.reduceat(w, starts, 0), starts, 1) / np.array(sizes)[:, None]
    squares = np.add.reduceat(np.add.reduceat(w**2, starts, 0), starts, 1)
    squares /= np.array(sizes)[:, None]

    scale = (sums.sum(1) / squares.sum(1))[:, None]
    mask = mask_on(sizes, layer)
    np.testing.assert_allclose(mask.key_sums, sums * scale, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mask.key_squares, squares * scale**2, rtol=1e-9, atol=1e-12)


def test_a_query_of_a_wide_cell_counts_once_with_itself() -> None:
    mask = mask_on([1, 1, 3, 6], layer_with(position_bias=alibi((0.2,))))
    pairs, alone = np.ones((4, 4)), np.array([1.0, 1.0, 4.0, 7.0])

    sums = mask.all_queries(alone, pairs)

    every = mask.queries(mask.queries(pairs, 0), 1)
    np.testing.assert_allclose(sums, every + mask.common_queries(alone - 1), rtol=1e-12)


@pytest.mark.parametrize("p_drop", [0.0, 0.3])
@pytest.mark.parametrize("changed", [{}, {"position_bias": alibi((0.3,))}, {"window": 3}])
def test_the_backward_sum_is_the_transpose_of_the_forward_sum(
    changed: dict[str, Any], p_drop: float, rng: np.random.Generator
) -> None:
    n, features = 12, rng.standard_normal((12, 30))
    gram = features @ features.T / 30
    x = dslm.Kernel(np.diagonal(gram).copy(), gram, np.ones(n, dtype=np.int64))
    (weights,) = attention_weights(x, x, layer_with(p_drop=p_drop, **changed))
    values, g = (a + a.T for a in rng.standard_normal((2, n, n)))
    ones = np.ones(n, dtype=np.int64)

    below = attend_backward(weights, dslm.Kernel(np.diagonal(g).copy(), g, ones))

    # so many features leave no coherent sum of keys, which the backward pass has in another place
    above = attend(weights, dslm.Kernel(np.diagonal(values).copy(), values, ones), 10**12)
    forward = g.ravel() @ dense(above).ravel()
    assert values.ravel() @ dense(below).ravel() == pytest.approx(forward, rel=1e-6)


RATES = tuple((100.0 ** (-np.arange(16) / 16)).tolist())
FLAT = PositionBias((0, 1), ((0.7, 0.7),), (4,))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"position_bias": FLAT}, {}),
        ({"position_bias": FLAT, "window": 5}, {"window": 5}),
        ({"position_bias": FLAT, "causal": False}, {"causal": False}),
        ({"prefix": 32}, {"causal": False}),
        ({"rotary": Rotary(500.0, frequencies=RATES)}, {"rotary": Rotary(100.0)}),
    ],
)
def test_limits_are_what_they_were_without(a: dict[str, Any], b: dict[str, Any]) -> None:
    x, y = (predict(with_attention(stack(3, std=0.1), **changed)) for changed in (a, b))
    np.testing.assert_allclose(x.forward.variance, y.forward.variance, rtol=1e-9)
    np.testing.assert_allclose(x.forward.correlation, y.forward.correlation, rtol=1e-9)
    np.testing.assert_allclose(x.backward.variance, y.backward.variance, rtol=1e-9)


def test_a_steep_bias_leaves_each_token_to_itself() -> None:
    decoder = with_attention(stack(1), position_bias=alibi((50.0,) * 4))
    gain = (128 * 0.08**2) ** 2
    assert predict(decoder).attention_variance[0] == pytest.approx(gain, rel=1e-4)


def test_a_bias_spread_over_keys_alone_means_the_same() -> None:
    """BLOOM adds slope * key position: the same but for a number a query's keys share."""
    decoder, other = alibi((0.5,) * 4), PositionBias((0, 31), ((0.0, -15.5),), (4,))
    x, y = (predict(with_attention(stack(2), position_bias=b)) for b in (decoder, other))
    np.testing.assert_allclose(x.forward.variance, y.forward.variance, rtol=1e-9)


def every_head(bias: PositionBias, attention: dslm.Attention) -> float:
    """The attention's variance, a prediction for each head."""
    decoder = with_attention(stack(1), **{name: getattr(attention, name) for name in HEADS})
    n = attention.n_heads
    alone = [PositionBias(bias.distances, (row,), (n,)) for row in bias.values]
    shares = [
        predict(with_attention(decoder, position_bias=row)).attention_variance[0] for row in alone
    ]
    return float(np.average(shares, weights=bias.heads))


HEADS = ("n_heads", "n_kv_heads", "d_head")
SIXTEEN = replace(block().attention, n_heads=16, n_kv_heads=16, d_head=8)


@pytest.mark.parametrize(("factor", "within"), [(1.0, 1e-3), (0.2, 1e-3), (4.0, 1e-2)])
def test_three_slopes_stand_for_all_of_alibis(factor: float, within: float) -> None:
    bias = alibi([factor * slope for slope in alibi_slopes(16)])
    decoder = with_attention(stack(1), n_heads=16, n_kv_heads=16, d_head=8, position_bias=bias)

    joined = predict(decoder).attention_variance[0]

    assert len(head_groups(bias)) == 3
    assert joined == pytest.approx(every_head(bias, SIXTEEN), rel=within)


def test_rule_of_three_slopes_is_exact_for_polynomials_of_degree_five() -> None:
    slopes = alibi_slopes(12)
    groups = head_groups(alibi(slopes))
    nodes = [np.log(-bias.values[0][0]) for _, bias in groups]
    weights = [share for share, _ in groups]

    for degree in range(6):
        exact = np.mean(np.log(slopes) ** degree)
        np.testing.assert_allclose(np.dot(weights, np.power(nodes, degree)), exact, rtol=1e-9)


@pytest.mark.parametrize(("std", "n_groups"), [(0.03, 1), (1.0, MOST_GROUPS)])
def test_heads_are_joined_as_far_as_their_biases_are_alike(
    std: float, n_groups: int, rng: np.random.Generator
) -> None:
    rows = tuple(map(tuple, rng.normal(0, std, (16, 8)).tolist()))
    bias = PositionBias(tuple(range(0, 32, 4)), rows, (1,) * 16)
    decoder = with_attention(stack(1), n_heads=16, n_kv_heads=16, d_head=8, position_bias=bias)

    groups = head_groups(bias)

    assert len(groups) == n_groups
    assert sum(share for share, _ in groups) == pytest.approx(1.0)
    within = 1e-3 if n_groups == 1 else 0.1  # means of five groups are rough for unlike heads
    joined = predict(decoder).attention_variance[0]
    assert joined == pytest.approx(every_head(bias, SIXTEEN), rel=within)


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_alibi_of_few_heads_becomes_that_of_many(scale: float) -> None:
    few = alibi([scale * slope for slope in alibi_slopes(7)])

    many = with_heads(few, 112)

    assert many is not None
    slopes = sorted(-row[0] for row in many.values)
    np.testing.assert_allclose(slopes, sorted(scale * s for s in alibi_slopes(112)), rtol=1e-12)
    assert with_heads(BUMPS, 8) is None
    assert with_heads(alibi((0.5, 0.4)), 8) is None


def test_alibi_slopes_are_the_papers() -> None:
    assert alibi_slopes(8) == tuple(2.0**-h for h in range(1, 9))
    assert alibi_slopes(3) == (2.0**-4, 2.0**-8, 2.0**-2)
    assert bias_at(alibi((0.5,)), np.array([-4.0, 0.0, 6.0]))[0].tolist() == [-2.0, 0.0, -3.0]


def test_positions_of_a_spec_survive_json_and_may_be_absent() -> None:
    changed = {"position_bias": BUMPS, "prefix": 3, "rotary": YARN}
    spec = spec_of(with_attention(stack(1), **changed))
    body = dslm.spec_to_json(spec)
    plain = dslm.spec_to_json(spec_of(with_attention(stack(1), rotary=Rotary())))
    older = plain["stacks"]["decoder"]["blocks"][0]["attention"]
    del older["position_bias"], older["prefix"]
    del older["rotary"]["frequencies"], older["rotary"]["scale"]

    restored = dslm.spec_from_json(body).stacks["decoder"].blocks[0]
    old = dslm.spec_from_json(plain).stacks["decoder"].blocks[0]

    assert restored is not None and old is not None
    assert restored.attention == with_attention(stack(1), **changed).blocks[0].attention  # type: ignore[union-attr]
    assert (old.attention.position_bias, old.attention.prefix) == (None, 0)
    assert old.attention.rotary == Rotary()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prefix": 2, "causal": False}, "prefix"),
        ({"prefix": 2, "window": 4}, "prefix"),
        ({"prefix": -1}, "prefix"),
        ({"position_bias": PositionBias((3, 0), ((0.0, 1.0),), (4,))}, "position_bias.distances"),
        ({"position_bias": PositionBias((0,), ((0.0,),), (3,))}, "position_bias.heads"),
        ({"position_bias": PositionBias((0, 1), ((0.0,),), (4,))}, "position_bias.values"),
        ({"position_bias": PositionBias((0,), ((np.nan,),), (4,))}, "position_bias.values"),
        ({"rotary": Rotary(frequencies=(1.0,))}, "rotary.frequencies"),
        ({"rotary": Rotary(scale=np.inf)}, "rotary.scale"),
    ],
)
def test_impossible_positions_are_refused_by_field(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.validate(spec_of(with_attention(stack(1), **changed)))
    assert raised.value.field == f"stacks.decoder.blocks[0].attention.{field}"
