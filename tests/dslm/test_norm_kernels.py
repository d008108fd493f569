"""LayerNorm and RMSNorm on kernels: gain, bias, eps and the exact Jacobian."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslm import Kernel, Norm
from dslm.kernels.lengths import random_lengths
from dslm.kernels.norm import centre, norm, norm_backward
from tests.dslm.specs import kernel

Floats = np.ndarray[Any, np.dtype[np.float64]]
Kind = Literal["layernorm", "rmsnorm"]
KINDS: tuple[Kind, ...] = ("layernorm", "rmsnorm")
N, D, DRAWS = 5, 24, 6000
GAINED = {"gain_mean": 0.8, "gain_var": 0.2, "bias_var": 0.3, "eps": 0.2}


def drawn(rng: np.random.Generator, matrix: Floats) -> Floats:
    """(draws, tokens, features) of covariance `matrix` between tokens."""
    root = np.linalg.cholesky(matrix + 1e-12 * np.eye(len(matrix)))
    return np.einsum("ij,bjd->bid", root, rng.standard_normal((DRAWS, len(matrix), D)))


def energy(x: Floats) -> Floats:
    return np.asarray(np.einsum("bid,bjd->ij", x, x) / x[:, 0].size)


def parts(matrix: Floats) -> Kernel:
    return Kernel(np.diagonal(matrix).copy(), matrix, np.ones(len(matrix), dtype=np.int64))


def dense(k: Kernel) -> Floats:
    matrix = np.array(k.off_diagonal)
    np.fill_diagonal(matrix, k.diagonal)
    return matrix


def gain_and_bias(rng: np.random.Generator, layer: Norm) -> tuple[Floats, Floats]:
    shape = (DRAWS, 1, D)
    gains = layer.gain_mean + np.sqrt(layer.gain_var) * rng.standard_normal(shape)
    return gains, np.sqrt(layer.bias_var) * rng.standard_normal(shape)


def through(
    layer: Norm, x: Floats, g: Floats, gains: Floats, bias: Floats
) -> tuple[Floats, Floats]:
    """The norm's output and, below it, the gradient `g`: the Jacobian applied draw by draw."""
    centred = x - x.mean(-1, keepdims=True) if layer.kind == "layernorm" else x
    s = np.sqrt(np.square(centred).mean(-1, keepdims=True) + layer.eps)
    y, h = centred / s, g * gains
    below = (h - y * (h * y).mean(-1, keepdims=True)) / s
    if layer.kind == "layernorm":
        below = below - below.mean(-1, keepdims=True)
    return y * gains + bias, below


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corr", [0.2, 0.95, 0.999])
@pytest.mark.parametrize("options", [{"eps": 0.0}, GAINED])
def test_norm_with_gain_matches_simulation_both_ways(
    kind: Kind, corr: float, options: dict[str, float], rng: np.random.Generator
) -> None:
    spread = np.sqrt(np.linspace(0.5, 2.0, N))  # tokens of different lengths
    forward = np.outer(spread, spread) * (corr + (1 - corr) * np.eye(N))
    backward = 0.7 + 0.3 * np.eye(N)
    layer = Norm(kind, **options)
    x, g = drawn(rng, forward), drawn(rng, backward)

    y, below = through(layer, x, g, *gain_and_bias(rng, layer))

    centred = centre(parts(forward), layer, D)
    predicted = norm_backward(
        parts(backward), centred, layer, D, lengths=random_lengths(centred, D)
    )
    # 6,000 draws of 24 features scatter by 0.5 %; what is left out is of order 1/d², 1 to 2 %
    np.testing.assert_allclose(dense(norm(centred, layer)), energy(y), rtol=0.03, atol=0.01)
    np.testing.assert_allclose(dense(predicted), energy(below), rtol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_takes_the_radial_part_out_of_a_shared_gradient(
    kind: Kind, rng: np.random.Generator
) -> None:
    layer = Norm(kind, eps=0.0)
    x = centre(parts(np.full((N, N), 1.0)), layer, D)  # every token the same vector

    below = norm_backward(parts(np.full((N, N), 1.0)), x, layer, D)

    removed = 2 if kind == "layernorm" else 1
    scale = 1 - 1 / D if kind == "layernorm" else 1.0
    np.testing.assert_allclose(dense(below), (1 - removed / D) / scale)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_norm_only_divides(kind: Kind) -> None:
    layer, d = Norm(kind, eps=0.0), 10**9
    x, g = kernel(4, 3.0, 0.6), kernel(4, 1.0, 0.4)

    y, below = norm(x, layer), norm_backward(g, x, layer, d)

    np.testing.assert_allclose(dense(y), dense(kernel(4, 1.0, 0.6)))
    np.testing.assert_allclose(dense(below), dense(g) / 3, rtol=1e-6)


def test_eps_larger_than_the_signal_makes_a_norm_linear() -> None:
    layer = Norm("rmsnorm", eps=1e8)
    x, g = kernel(4, 1.0, 0.5), kernel(4, 1.0, 0.5)
    np.testing.assert_allclose(dense(norm(x, layer)) * 1e8, dense(x), rtol=1e-6)
    np.testing.assert_allclose(dense(norm_backward(g, x, layer, 16)) * 1e8, dense(g), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(1e-3, 1e3),
    st.floats(0.0, 1.0),
    st.floats(0.01, 10.0),
    st.builds(Norm, st.sampled_from(KINDS), st.floats(-2, 2), bias_var=st.floats(0, 2)),
)
def test_norm_forgets_scale_and_keeps_kernels_possible(
    var: float, corr: float, factor: float, layer: Norm
) -> None:
    layer = replace(layer, gain_var=0.1, eps=0.0)
    x, large, g = kernel(4, var, corr), kernel(4, factor * var, corr), kernel(4, 1.0, corr)

    y, below = dense(norm(x, layer)), dense(norm_backward(g, x, layer, 16))

    np.testing.assert_allclose(dense(norm(large, layer)), y, rtol=1e-6)
    np.testing.assert_allclose(
        dense(norm_backward(g, large, layer, 16)), below / factor, rtol=1e-6, atol=1e-12
    )
    for matrix in (y, below):
        assert np.diagonal(matrix).min() >= 0
        assert np.abs(matrix).max() <= np.diagonal(matrix).max() * (1 + 1e-9)
