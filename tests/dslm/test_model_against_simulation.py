"""The whole prediction against random transformers, measured kernels in, moments out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dslm import Curve, Stack, StackPrediction
from tests.dslm.simulation import Measured, kernel_of, simulate
from tests.dslm.specs import predict, stack

BATCH, SEQ_LEN, D_MODEL, DRAWS = 4, 32, 128, 5
MODELS: list[dict[str, Any]] = [
    {"placement": "pre", "causal": True, "activation": "relu"},
    {"placement": "pre", "causal": False, "activation": "gelu"},
    {"placement": "pre", "causal": True, "activation": "silu", "gated": True, "norm": "rmsnorm"},
    {"placement": "post", "causal": True, "activation": "gelu", "norm": "rmsnorm"},
    {"placement": "post", "causal": False, "activation": "relu"},
    {"placement": "sandwich", "causal": True, "activation": "gelu", "norm": "rmsnorm"},
    {"placement": "branch", "causal": True, "activation": "relu", "std": 0.03},
    {"placement": "parallel", "causal": True, "activation": "gelu"},
]


def tokens(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Embeddings of a sequence that repeats ids, plus positions."""
    table = rng.standard_normal((12, D_MODEL))
    ids = rng.integers(0, 12, (BATCH, SEQ_LEN))
    return 0.8 * table[ids] + 0.6 * rng.standard_normal((SEQ_LEN, D_MODEL))


def one_draw(decoder: Stack, rng: np.random.Generator) -> tuple[StackPrediction, Measured]:
    x = tokens(rng)
    g = rng.standard_normal(x.shape)
    seeded = replace(decoder, input_kernel=kernel_of(x), top_gradient_kernel=kernel_of(g))
    return predict(seeded, BATCH), simulate(decoder, x, g, rng)


@pytest.mark.parametrize("how", MODELS, ids=lambda how: "-".join(map(str, how.values())))
def test_prediction_matches_the_mean_of_random_models(
    how: dict[str, Any], rng: np.random.Generator
) -> None:
    decoder = stack(4, SEQ_LEN, D_MODEL, **how)

    drawn = [one_draw(decoder, rng) for _ in range(DRAWS)]

    def gap(curve: str, quantity: str, measured: str) -> float:
        ratios = [getattr(getattr(p, curve), quantity) / getattr(m, measured) for p, m in drawn]
        return float(np.abs(np.mean(np.log(ratios), axis=0)).max())

    shifts = [p.forward.correlation - m.correlation for p, m in drawn]
    # one draw scatters by 5 to 10 %, so the mean of five by a quarter to a half of the bounds
    assert gap("forward", "variance", "variance") < 0.1
    assert gap("backward", "variance", "grad_variance") < 0.15
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.04


def inside(curve: Curve, quantity: str, values: np.ndarray[Any, Any]) -> float:
    low, high = getattr(curve, f"{quantity}_low"), getattr(curve, f"{quantity}_high")
    return float(np.mean((low <= values) & (values <= high)))


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "branch"])
def test_bands_hold_about_95_percent_of_layers_of_fresh_draws(
    placement: str, rng: np.random.Generator
) -> None:
    std = 0.03 if placement == "branch" else 0.08  # a stream without norm heats its scores
    decoder = stack(6, SEQ_LEN, D_MODEL, placement=placement, activation="relu", std=std)

    shares = [
        (
            inside(p.forward, "variance", m.variance),
            inside(p.forward, "correlation", m.correlation),
            inside(p.backward, "variance", m.grad_variance),
        )
        for p, m in (one_draw(decoder, rng) for _ in range(12))
    ]

    # layers of a draw stray together: 12 draws give 12 rather than 84 independent chances
    assert np.mean(shares, axis=0).min() > 0.85


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("std", "bound"), [(0.085, 0.06), (0.15, 0.2)])
def test_prediction_holds_when_scores_are_hot(
    std: float, bound: float, causal: bool, rng: np.random.Generator
) -> None:
    decoder = stack(2, SEQ_LEN, D_MODEL, causal=causal, std=std)
    drawn = [one_draw(decoder, rng) for _ in range(6)]

    back = np.mean([np.log(p.backward.variance / m.grad_variance) for p, m in drawn], axis=0)
    forward = np.mean([np.log(p.forward.variance / m.variance) for p, m in drawn], axis=0)

    # the score variance is near 0.8, and 7 to 8
    assert np.abs(back).max() < bound
    assert np.abs(forward).max() < 0.08


def test_grouped_heads_and_residual_scales_match_simulation(rng: np.random.Generator) -> None:
    decoder = stack(3, SEQ_LEN, D_MODEL)
    block = decoder.blocks[0]
    assert block is not None
    narrow = replace(block.attention.key, d_out=D_MODEL // 4)
    attention = replace(block.attention, key=narrow, value=narrow, n_kv_heads=1)
    scaled = replace(block.attention_residual, lam=0.9, beta=0.5)
    grouped = replace(
        block, attention=attention, attention_residual=scaled, feed_forward_residual=scaled
    )
    decoder = replace(decoder, blocks=(grouped,) * 3)

    drawn = [one_draw(decoder, rng) for _ in range(DRAWS)]

    logs = [np.log(p.forward.variance / m.variance) for p, m in drawn]
    back = [np.log(p.backward.variance / m.grad_variance) for p, m in drawn]
    assert np.abs(np.mean(logs, axis=0)).max() < 0.08
    assert np.abs(np.mean(back, axis=0)).max() < 0.1
