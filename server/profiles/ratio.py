"""How far measured values lie from predicted ones, one number a layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import dslm

Floats = NDArray[np.float64]

CURVES = {
    ("stream", "variance"): lambda stack: stack.forward.variance,
    ("stream", "correlation"): lambda stack: stack.forward.correlation,
    ("stream_gradient", "variance"): lambda stack: stack.backward.variance,
    ("stream_gradient", "correlation"): lambda stack: stack.backward.correlation,
    ("attention", "variance"): lambda stack: stack.attention_variance,
    ("feed_forward", "variance"): lambda stack: stack.feed_forward_variance,
    ("attention_logits", "variance"): lambda stack: stack.score_variance,
}


def predicted(prediction: dslm.Prediction | None, key: str, n: int) -> Floats:
    """Theory's curve for a series, shape (n,); NaN where it makes none."""
    name, site, quantity = key.split("/", 2)
    curve_of = CURVES.get((site, quantity))
    stack = None if prediction is None else prediction.stacks.get(name)
    if curve_of is None or stack is None:
        return np.full(n, np.nan)
    curve = np.asarray(curve_of(stack), dtype=np.float64)
    return curve if curve.shape == (n,) else np.full(n, np.nan)


def compare(values: NDArray[np.float32], curve: Floats, key: str) -> Floats:
    """How far measurements lie from a curve of shape (n,); `values` is (steps, n), and so is this.

    Variances: log2(measured / predicted), gradients relative to their top. Correlations:
    measured - predicted. NaN where there is no prediction.
    """
    _, site, quantity = key.split("/", 2)
    measured = values.astype(np.float64)
    with np.errstate(all="ignore"):  # NaN, Inf and zero are data
        if quantity == "correlation":
            return measured - curve
        if site == "stream_gradient":
            measured = measured / measured[:, -1:]
        return np.log2(measured / curve)
