"""`predict`: limits, invariances, missing parts, impossible specs."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm import Kernel, Linear
from tests.dslm.specs import kernel, predict, spec_of, stack, with_input

PLACEMENTS = get_args(dslm.Placement)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_prediction_has_n_plus_one_places_and_ends_at_gradient_one(placement: str) -> None:
    p = predict(stack(5, placement=placement))

    assert p.forward.variance.shape == p.backward.correlation.shape == (6,)
    assert p.score_variance.shape == (5,)
    assert p.backward.variance[-1] == 1.0
    assert p.forward.variance[0] == pytest.approx(1.0)


def test_post_ln_stream_keeps_unit_variance() -> None:
    p = predict(stack(6, placement="post"))
    np.testing.assert_allclose(p.forward.variance[1:], 1.0, rtol=1e-4)


def test_pre_ln_stream_grows_linearly_once_tokens_are_alike() -> None:
    steps = np.diff(predict(stack(40, causal=False, activation="relu")).forward.variance)
    np.testing.assert_allclose(steps[-10:], steps[-1], rtol=0.02)


def test_norms_on_branches_make_the_stream_grow_by_their_gain() -> None:
    for placement in ("sandwich", "branch"):
        p = predict(stack(6, placement=placement))
        np.testing.assert_allclose(p.forward.variance, 1 + 2 * np.arange(7), rtol=2e-3)


def test_parallel_branches_that_do_not_interact_equal_serial_ones() -> None:
    serial, parallel = (stack(4, placement=how) for how in ("pre", "parallel"))

    def silent(decoder: dslm.Stack) -> dslm.Stack:
        blocks = []
        for block in decoder.blocks:
            assert block is not None
            residual = replace(block.feed_forward_residual, beta=0.0)
            blocks.append(replace(block, feed_forward_residual=residual))
        return replace(decoder, blocks=tuple(blocks))

    a, b = predict(silent(serial)), predict(silent(parallel))
    np.testing.assert_allclose(a.forward.correlation, b.forward.correlation)
    np.testing.assert_allclose(a.backward.variance, b.backward.variance)


def test_depth_without_dropout_collapses_rank() -> None:
    assert predict(stack(40, placement="post", std=0.12)).forward.correlation[-1] > 0.99


def test_gradient_stays_possible_when_scores_are_hot_and_rank_has_collapsed() -> None:
    backward = predict(stack(30, placement="post", std=0.2)).backward

    assert (backward.variance > 0).all()
    assert (np.abs(backward.correlation) <= 1 + 1e-9).all()


def test_branches_of_zero_weight_leave_everything_as_it_was() -> None:
    p = predict(stack(4, std=0.0))
    np.testing.assert_allclose(p.forward.variance, 1.0)
    np.testing.assert_allclose(p.forward.correlation, 0.3)
    np.testing.assert_allclose(p.backward.variance, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-2, 1e2), st.floats(0.0, 0.99), st.sampled_from(["relu", "gelu", "silu"]))
def test_prediction_stays_possible(var: float, corr: float, activation: str) -> None:
    for placement in PLACEMENTS:
        decoder = stack(3, 6, 32, placement=placement, activation=activation, std=0.2)
        p = predict(with_input(decoder, kernel(6, var, corr)))

        assert (p.forward.variance > 0).all() and (p.backward.variance > 0).all()
        assert (np.abs(p.forward.correlation) <= 1 + 1e-9).all()
        assert (p.forward.variance_low <= p.forward.variance).all()
        assert (p.backward.variance <= p.backward.variance_high).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 10.0))
def test_pre_ln_stream_scales_with_embeddings_and_branches(factor: float) -> None:
    decoder = stack(3, 8, 32)
    block = decoder.blocks[0]
    assert block is not None
    no_eps = replace(block.attention_norm, eps=0.0)
    residual = replace(block.attention_residual, beta=factor)
    exact = replace(block, attention_norm=no_eps, feed_forward_norm=no_eps)
    larger = replace(exact, attention_residual=residual, feed_forward_residual=residual)

    p = predict(replace(decoder, blocks=(exact,) * 3))
    scaled = predict(replace(decoder, blocks=(larger,) * 3, input_kernel=kernel(8, factor**2)))

    np.testing.assert_allclose(scaled.forward.variance, factor**2 * p.forward.variance)
    np.testing.assert_allclose(scaled.forward.correlation, p.forward.correlation)
    np.testing.assert_allclose(scaled.backward.variance, p.backward.variance)


def test_full_attention_does_not_depend_on_the_order_of_positions(
    rng: np.random.Generator,
) -> None:
    root = rng.standard_normal((12, 40))
    matrix, order = root @ root.T / 40, rng.permutation(12)
    ones = np.ones(12, dtype=np.int64)
    original = Kernel(np.diagonal(matrix).copy(), matrix, ones)
    moved = Kernel(np.diagonal(matrix)[order].copy(), matrix[np.ix_(order, order)], ones)
    decoder = stack(2, 12, causal=False)

    p, q = predict(with_input(decoder, original)), predict(with_input(decoder, moved))

    np.testing.assert_allclose(p.forward.correlation, q.forward.correlation)
    np.testing.assert_allclose(p.backward.variance, q.backward.variance)


@pytest.mark.parametrize("causal", [True, False])
def test_coarse_cells_predict_what_single_tokens_do(causal: bool) -> None:
    decoder = stack(6, 96, causal=causal, p_drop=0.1)
    sizes = np.array([1] * 16 + [4] * 20)
    n = len(sizes)
    coarse = Kernel(np.ones(n), np.full((n, n), 0.3), sizes)

    fine, rough = predict(decoder), predict(with_input(decoder, coarse))

    np.testing.assert_allclose(rough.forward.variance, fine.forward.variance, rtol=5e-3)
    np.testing.assert_allclose(rough.forward.correlation, fine.forward.correlation, atol=2e-3)
    np.testing.assert_allclose(rough.backward.variance, fine.backward.variance, rtol=1e-2)


def test_cells_lose_nothing_where_positions_do_not_matter() -> None:
    decoder = stack(3, 64, placement="post", causal=False, std=0.12)
    sizes = np.array([16, 32, 15, 1])
    coarse = Kernel(np.ones(4), np.full((4, 4), 0.3), sizes)

    fine, rough = predict(decoder), predict(with_input(decoder, coarse))

    # exp is interpolated within 1e-5 over the range of the entries, which the cells narrow
    np.testing.assert_allclose(rough.backward.variance, fine.backward.variance, rtol=1e-5)
    np.testing.assert_allclose(rough.backward.correlation, fine.backward.correlation, atol=1e-5)
    np.testing.assert_allclose(rough.forward.correlation, fine.forward.correlation, atol=1e-5)


def test_prediction_stops_at_a_block_that_is_not_understood() -> None:
    decoder = stack(4)
    missing = dslm.Missing("decoder.blocks[2]", "MoE", "routing is outside the theory")
    broken = replace(decoder, blocks=(*decoder.blocks[:2], None, decoder.blocks[3]))

    p = dslm.predict(replace(spec_of(broken), missing=(missing,)))

    forward, backward = p.stacks["decoder"].forward, p.stacks["decoder"].backward
    assert p.missing == (missing,)
    assert np.isfinite(forward.variance[:3]).all() and np.isnan(forward.variance[3:]).all()
    assert np.isnan(backward.variance[:-1]).all() and backward.variance[-1] == 1.0
    assert np.isnan(p.stacks["decoder"].score_variance[2:]).all()


def test_overflow_is_infinite_and_named() -> None:
    decoder = stack(3, 6, 16)
    block = decoder.blocks[0]
    assert block is not None
    huge = replace(block.feed_forward, down=Linear(32, 16, 1e308))
    p = dslm.predict(spec_of(replace(decoder, blocks=(block, replace(block, feed_forward=huge)))))

    assert np.isposinf(p.stacks["decoder"].forward.variance[-1])
    assert any(m.where == "decoder.stream[2]" for m in p.missing)


def test_all_lists_every_public_name() -> None:
    assert set(dslm.__all__) == set(dslm._HOMES)
    assert all(getattr(dslm, name) is not None for name in dslm.__all__)
    assert list(dslm.__all__) == sorted(dslm.__all__)
