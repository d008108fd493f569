"""Activations whose duals have no closed form, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dslm.spec import Floats

Pointwise = Callable[[Floats], Floats]
GELU_TANH_SCALE = math.sqrt(2 / math.pi)
GELU_TANH_CUBIC = 0.044715  # the constant of the tanh form that frameworks use
QUICK_GELU_SCALE = 1.702  # of the logistic form, as CLIP has it


def sigmoid(u: Floats) -> Floats:
    """Return 1/(1 + exp(-u)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(u / 2)))


def silu(u: Floats) -> Floats:
    """Return u·sigmoid(u)."""
    return u * sigmoid(u)


def silu_slope(u: Floats) -> Floats:
    """Return the derivative of `silu`."""
    s = sigmoid(u)
    return s * (1 + u * (1 - s))


def quick_gelu(u: Floats) -> Floats:
    """Return GELU in its logistic form, u·sigmoid(1.702 u)."""
    return silu(QUICK_GELU_SCALE * u) / QUICK_GELU_SCALE


def quick_gelu_slope(u: Floats) -> Floats:
    """Return the derivative of `quick_gelu`."""
    return silu_slope(QUICK_GELU_SCALE * u)


def relu_squared(u: Floats) -> Floats:
    """Return max(u, 0)²."""
    return np.asarray(np.maximum(u, 0.0) ** 2)


def relu_squared_slope(u: Floats) -> Floats:
    """Return the derivative of `relu_squared`."""
    return np.asarray(2 * np.maximum(u, 0.0))


def gelu_tanh(u: Floats) -> Floats:
    """Return GELU in its tanh form."""
    return np.asarray(0.5 * u * (1 + np.tanh(GELU_TANH_SCALE * (u + GELU_TANH_CUBIC * u**3))))


def gelu_tanh_slope(u: Floats) -> Floats:
    """Return the derivative of `gelu_tanh`."""
    t = np.tanh(GELU_TANH_SCALE * (u + GELU_TANH_CUBIC * u**3))
    inner = GELU_TANH_SCALE * (1 + 3 * GELU_TANH_CUBIC * u**2)
    return np.asarray(0.5 * (1 + t) + 0.5 * u * (1 - t**2) * inner)


def tanh_slope(u: Floats) -> Floats:
    """Return the derivative of tanh."""
    return np.asarray(1 - np.tanh(u) ** 2)


POINTWISE: dict[str, tuple[Pointwise, Pointwise]] = {
    "silu": (silu, silu_slope),
    "gelu_tanh": (gelu_tanh, gelu_tanh_slope),
    "quick_gelu": (quick_gelu, quick_gelu_slope),
    "relu_squared": (relu_squared, relu_squared_slope),
    "tanh": (np.tanh, tanh_slope),
}
