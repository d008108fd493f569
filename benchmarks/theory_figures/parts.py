"""Softmax weights and activations by themselves, simulated."""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

import dslm.components as theory
from benchmarks.theory_figures.paper import (
    COLOURS,
    GREY,
    errors,
    keyed,
    line,
    points,
    save,
    sheet,
    titled,
)
from dslm import Activation
from dslm.components import GradMoments, Moments
from dslm.duals.partition import concentration
from dslm.duals.pointwise import POINTWISE

Floats = NDArray[np.float64]
LENGTHS = (8, 64, 512)
DRAWN = 400_000  # scores, or pairs of tokens


def softmax_figure() -> None:
    """E of the sum of squared weights, over the variance of the scores."""
    rng = np.random.default_rng(0)
    figure, (axes,) = sheet(1)
    variances, grid = np.geomspace(0.03, 60, 13), np.geomspace(0.03, 60, 200)
    for n, colour in zip(LENGTHS, COLOURS, strict=False):
        simulated = [_meeting(rng, s, n) for s in variances]
        points(axes, variances, np.array(simulated), colour, f"simulated, {n} keys")
        line(axes, grid, concentration(grid, np.full_like(grid, float(n))).self_overlap, colour)
        line(axes, grid, np.minimum(np.exp(grid) / n, 4), GREY, style=":")
        exact = concentration(variances, np.full_like(variances, float(n))).self_overlap
        print(f"softmax, {n} keys: {errors(exact, np.array(simulated))}")
    axes.plot([], [], ":", color=GREY, label="numerator alone, $e^s/n$")
    axes.set(xscale="log", yscale="log", ylim=(1.5e-3, 2))
    titled(axes, "What one query's weights concentrate to", "score variance $s$", "$E\\sum a_j^2$")
    keyed(axes)
    save(figure, "softmax")


def _meeting(rng: np.random.Generator, s: float, n: int) -> float:
    e = np.exp(np.sqrt(s) * rng.standard_normal((DRAWN // n, n)))
    return float(np.square(e / e.sum(axis=1, keepdims=True)).sum(axis=1).mean())


def activation_figure() -> None:
    """Correlation of two tokens after an activation, and of their gradients below it."""
    rng = np.random.default_rng(1)
    figure, (above, below) = sheet(2)
    before = np.linspace(0, 1, 11)
    names = [a for a in get_args(Activation) if a in ("relu", "gelu", "silu", "tanh")]
    for name, colour in zip(names, COLOURS, strict=True):
        simulated = np.array([_after(rng, name, r) for r in before])
        grid = [Moments(0.0, 1.0, r) for r in np.linspace(0, 1, 60)]
        out = np.array([theory.activation(x, name).corr_l for x in grid])
        grad = [theory.activation_backward(GradMoments(1.0, 1.0), x, name).corr_l for x in grid]
        for axes, measured, predicted in (
            (above, simulated[:, 0], out),
            (below, simulated[:, 1], grad),
        ):
            points(axes, before, measured, colour, name)
            line(axes, np.linspace(0, 1, 60), np.array(predicted), colour)
        exact = np.interp(before, np.linspace(0, 1, 60), out)
        print(f"{name}: correlation off by at most {np.abs(exact - simulated[:, 0]).max():.3f}")
    line(above, before, before, GREY, style=":")
    titled(above, "Activations pull tokens apart", "correlation before", "correlation after")
    titled(below, "and gradients, too", "correlation of the inputs", "kept share of $r_g$")
    keyed(above)
    save(figure, "activations")


def _after(rng: np.random.Generator, name: Activation, r: float) -> tuple[float, float]:
    shared, first, second = rng.standard_normal((3, DRAWN))
    tokens = np.sqrt(r) * shared + np.sqrt(1 - r) * np.stack([first, second])
    value, slope = _value_and_slope(name, tokens)
    spread = np.corrcoef(value)[0, 1]
    return float(spread), float((slope[0] * slope[1]).mean() / np.square(slope).mean())


def _value_and_slope(name: Activation, u: Floats) -> tuple[Floats, Floats]:
    if name == "relu":
        return np.maximum(u, 0), (u > 0).astype(np.float64)
    value, slope = POINTWISE["gelu_tanh" if name == "gelu" else name]
    return value(u), slope(u)
