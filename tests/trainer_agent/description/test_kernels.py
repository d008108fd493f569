"""The kernel of a batch against sums written out over pairs of tokens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dslm.spec import Kernel
from trainer_agent.description import KernelSums, kernel


def brute_force(x: Tensor, mask: Tensor, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of K_ii per cell and of K_ij, i≠j, per pair of cells, token pair by token pair."""
    values, real = x.double().numpy(), mask.numpy() > 0
    edges = np.cumsum([0, *sizes])
    cells = [range(a, b) for a, b in pairwise(edges)]
    diagonal = np.zeros(len(cells))
    off = np.full((len(cells), len(cells)), np.nan)
    for i, first in enumerate(cells):
        squares = [values[b, t] @ values[b, t] for b in range(len(x)) for t in first if real[b, t]]
        diagonal[i] = np.mean(squares) / x.shape[-1]
        for j, second in enumerate(cells):
            pairs = [
                values[b, t] @ values[b, u]
                for b in range(len(x))
                for t in first
                for u in second
                if t != u and real[b, t] and real[b, u]
            ]
            if pairs:
                off[i, j] = np.mean(pairs) / x.shape[-1]
    return diagonal, off


def assert_matches(got: Kernel, x: Tensor, mask: Tensor) -> None:
    diagonal, off = brute_force(x, mask, got.cell_sizes.tolist())
    is_filled = ~np.isnan(off)
    np.testing.assert_allclose(got.diagonal, diagonal, rtol=1e-4)
    np.testing.assert_allclose(got.off_diagonal[is_filled], off[is_filled], rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3), seq=st.integers(1, 9), features=st.integers(1, 5), seed=st.integers(0)
)
def test_kernel_equals_sums_over_token_pairs(
    batch: int, seq: int, features: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    x = torch.randn(batch, seq, features, generator=generator) + 0.5

    got = kernel(x)

    assert_matches(got, x, torch.ones(batch, seq))
    assert got.mean == pytest.approx(float(x.mean()), abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 1000))
def test_kernel_on_any_cells_equals_sums_over_token_pairs(sizes: list[int], seed: int) -> None:
    x = torch.randn(2, sum(sizes), 3, generator=torch.Generator().manual_seed(seed)) + 0.5

    got = kernel(x, cells=lambda _: np.array(sizes, dtype=np.int64))

    assert got.cell_sizes.tolist() == sizes
    assert_matches(got, x, torch.ones(2, sum(sizes)))


def test_kernel_starts_its_cells_at_the_first_real_token() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(2, 200, 3), torch.ones(2, 200)
    mask[:, :60] = 0

    got, bare = kernel(x, mask), kernel(x[:, 60:])

    assert got.cell_sizes.tolist() == bare.cell_sizes.tolist()
    np.testing.assert_array_equal(got.off_diagonal, bare.off_diagonal)


def test_kernel_of_coarse_cells_equals_sums_over_token_pairs() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 260, 3)

    assert_matches(kernel(x), x, torch.ones(2, 260))


def test_kernel_leaves_padding_out_whatever_it_holds() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]])
    x[mask == 0] = float("nan")

    got = kernel(x, mask)

    assert got.cell_sizes.sum() == 4
    assert_matches(got, x[:, :4], mask[:, :4])
    assert got.mean == pytest.approx(float(x[mask == 1].mean()), abs=1e-6)


def test_kernel_passes_what_is_not_finite_on() -> None:
    x = torch.ones(1, 3, 2)
    x[0, 1, 0] = float("inf")

    got = kernel(x)

    assert got.diagonal[1] == float("inf")
    assert got.diagonal[0] == pytest.approx(1.0)


def test_kernel_names_the_shape_it_needs() -> None:
    with pytest.raises(ValueError, match="batch, seq, features"):
        kernel(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no token is real"):
        kernel(torch.zeros(3, 4, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="mask must be shaped"):
        kernel(torch.zeros(3, 4, 2), torch.ones(4, 3))


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0)])
def test_kernel_of_an_empty_batch_names_the_batch(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"^batch: it holds nothing"):
        kernel(torch.zeros(shape))


def test_kernel_names_the_mask_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^mask must be shaped \(3, 4\)"):
        kernel(torch.zeros(3, 4, 2), torch.ones(3, 5))


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    seq=st.integers(1, 9),
    seed=st.integers(0),
)
def test_batches_added_up_make_the_kernel_of_one_batch(
    sizes: list[int], seq: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    batches = [torch.randn(n, seq, 4, generator=generator) + 0.5 for n in sizes]
    sums = KernelSums()

    for x in batches:
        sums.add(x)

    joined, expected = sums.kernel(), kernel(torch.cat(batches))
    np.testing.assert_allclose(joined.diagonal, expected.diagonal, rtol=1e-5)
    np.testing.assert_allclose(joined.off_diagonal, expected.off_diagonal, rtol=1e-4, atol=1e-5)
    assert joined.mean == pytest.approx(expected.mean, rel=1e-4, abs=1e-6)


def test_of_several_lengths_the_one_with_the_most_tokens_makes_the_kernel() -> None:
    short, long = torch.randn(9, 4, 3), torch.randn(2, 12, 3)
    sums = KernelSums()

    sums.add(long)
    sums.add(short)

    assert (sums.length, sums.share) == (4, 36 / 60)
    np.testing.assert_allclose(sums.kernel().diagonal, kernel(short).diagonal, rtol=1e-6)
    at_length = sums.of_length(12)
    assert at_length is not None and sums.of_length(5) is None
    np.testing.assert_allclose(at_length.diagonal, kernel(long).diagonal, rtol=1e-6)
