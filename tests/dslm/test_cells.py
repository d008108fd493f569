"""Cells of neighbouring positions: what they keep, and what they cost in accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm import Kernel
from dslm.kernels import grid
from dslm.kernels.coarsen import coarsen_stack
from dslm.kernels.scores import mean_cosine
from dslm.masks import cell_sizes
from tests.dslm.specs import spec_of, stack, with_input

WINDOWS = st.none() | st.integers(1, 5000)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20_000), st.booleans(), WINDOWS)
def test_cells_hold_every_token_once_and_stay_few(
    seq_len: int, causal: bool, window: int | None
) -> None:
    sizes = dslm.cell_sizes(seq_len, causal=causal, window=window)

    assert sizes.sum() == seq_len and (sizes >= 1).all()
    assert len(sizes) <= 256
    assert seq_len > cell_sizes.SINGLE_UP_TO or (sizes == 1).all()


def test_cells_grow_with_position_under_a_causal_mask_only() -> None:
    causal, full = dslm.cell_sizes(8192), dslm.cell_sizes(8192, causal=False)
    before = np.cumsum(causal) - causal

    assert (causal <= np.maximum(before / cell_sizes.GROWTH, 1)).all()
    assert full[: cell_sizes.LEADING].tolist() == [1] * cell_sizes.LEADING
    assert (full <= 8192 // cell_sizes.UNMASKED_CELLS).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.data())
def test_merging_cells_conserves_sums(sizes: list[int], data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    rng = np.random.default_rng(len(sizes))
    root = rng.standard_normal((len(sizes), 8))
    fine_kernel = Kernel(
        (root**2).sum(1) + 1, root @ root.T, np.array(sizes, dtype=np.int64), mean=0.1
    )

    merged = grid.merge_cells(grid.prepare(fine_kernel), np.array(sorted(cuts | {0})))

    assert grid.n_tokens(merged) == sum(sizes)
    assert merged.mean == fine_kernel.mean
    tolerance = 1e-12 * max(sizes) ** 2 * len(sizes)  # rounding of sums over pairs
    assert grid.mean_diagonal(merged) == pytest.approx(grid.mean_diagonal(fine_kernel))
    if sum(sizes) > 1:
        before, after = grid.mean_off_diagonal(fine_kernel), grid.mean_off_diagonal(merged)
        assert after == pytest.approx(before, rel=1e-9, abs=tolerance)


def measured_kernel(seq_len: int, rng: np.random.Generator) -> Kernel:
    """A kernel as of 8 sequences of words: tokens that repeat, and scatter between pairs."""
    ids = np.minimum(rng.zipf(1.3, (8, seq_len)), 5000)
    same = (ids[:, :, None] == ids[:, None, :]).mean(0)
    scatter = rng.standard_normal((seq_len, seq_len)) / 40
    matrix = same + (scatter + scatter.T) / 2
    np.fill_diagonal(matrix, 1.25)
    return Kernel(np.diagonal(matrix).copy(), matrix, np.ones(seq_len, dtype=np.int64))


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("rotary", [None, dslm.Rotary()])
@pytest.mark.parametrize("causal", [True, False])
def test_cells_predict_what_single_tokens_do(
    causal: bool,
    rotary: dslm.Rotary | None,
    window: int | None,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = stack(3, 1, causal=causal, std=0.05)
    block = decoder.blocks[0]
    assert block is not None
    block = replace(block, attention=replace(block.attention, rotary=rotary, window=window))
    decoder = replace(decoder, blocks=(block,) * 3, input_kernel=measured_kernel(288, rng))

    rough = dslm.predict(spec_of(decoder)).stacks["decoder"]
    monkeypatch.setattr(cell_sizes, "SINGLE_UP_TO", 288)
    fine = dslm.predict(spec_of(decoder)).stacks["decoder"]

    # the errors that `cell_sizes` states
    np.testing.assert_allclose(rough.forward.variance, fine.forward.variance, rtol=5e-3)
    np.testing.assert_allclose(rough.backward.variance, fine.backward.variance, rtol=5e-3)
    np.testing.assert_allclose(rough.forward.correlation, fine.forward.correlation, atol=5e-3)
    np.testing.assert_allclose(rough.backward.correlation, fine.backward.correlation, atol=5e-3)


def test_cells_that_a_spec_brings_are_merged_no_finer_than_given() -> None:
    sizes = np.full(256, 4)
    fine_kernel = Kernel(np.ones(256), np.full((256, 256), 0.3), sizes)
    merged = coarsen_stack(with_input(stack(2), fine_kernel)).input_kernel

    assert len(merged.cell_sizes) <= len(dslm.cell_sizes(1024))
    assert merged.cell_sizes.sum() == 1024 and (merged.cell_sizes % 4 == 0).all()
    np.testing.assert_allclose(merged.off_diagonal, 0.3)


@pytest.mark.parametrize("causal", [True, False])
def test_eight_thousand_tokens_are_predicted(causal: bool) -> None:
    long = dslm.embedding_kernel(8192, 50_000, token_var=1.0)
    p = dslm.predict(spec_of(with_input(stack(2, 1, causal=causal), long))).stacks["decoder"]

    assert long.cell_sizes.sum() == 8192
    assert np.isfinite(p.forward.variance).all() and np.isfinite(p.backward.variance).all()


def test_mean_cosine_over_cells_equals_the_mean_over_tokens() -> None:
    sizes, rotary = np.array([1, 3, 5, 1, 10]), dslm.Rotary(fraction=0.5)
    means = mean_cosine(sizes.tobytes(), rotary, 64)

    position, cell = np.arange(20), np.repeat(np.arange(5), sizes)
    turns = (position[:, None, None] - position[None, :, None]) * 1e4 ** (-np.arange(16) / 16)
    cosine = 0.5 + 0.5 * np.cos(turns).mean(-1)
    np.fill_diagonal(cosine, np.nan)
    for a in range(5):
        for b in range(5):
            pairs = cosine[np.ix_(cell == a, cell == b)]
            expected = np.nanmean(pairs) if pairs.size > 1 or a != b else 1.0
            assert means[a, b] == pytest.approx(expected, abs=1e-13)
