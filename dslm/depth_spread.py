"""How even stream and gradient are over depth: what a repair is to improve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dslm.curves import backward_moments, forward_moments
from dslm.model import memory_predicted, model_backward, model_forward, model_heads
from dslm.spec import Floats, ModelSpec
from dslm.validation import validate


@dataclass(frozen=True, slots=True)
class Evenness:
    """Largest over smallest variance of a stack's layers; infinite where one is 0 or not finite.

    Attributes:
        stream: of the residual stream.
        gradient: of the gradient of the loss with respect to it.
    """

    stream: float
    gradient: float

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.stream, self.gradient)


def evenness(spec: ModelSpec) -> dict[str, Evenness]:
    """Return, for every stack, how even its predicted variances are over depth.

    Of the mean over draws, without the bands of `dslm.predict`, which take longer.

    Raises:
        SpecError: if the spec describes no possible model.
    """
    validate(spec)
    with np.errstate(all="ignore"):  # numbers that overflow make a spread infinite
        layers = model_forward(spec)
        gradients, _ = model_backward(spec, layers, model_heads(spec, layers))
        spreads = {}
        for name, stack in spec.stacks.items():
            read = memory_predicted(spec, stack, layers)
            stream, _ = forward_moments(stack, layers[name], memory_predicted=read)
            gradient, _ = backward_moments(stack, gradients[name])
            spreads[name] = Evenness(_spread(stream), _spread(gradient))
    return spreads


def _spread(values: Floats) -> float:
    if not np.isfinite(values).all() or values.min() <= 0:
        return math.inf
    return float(values.max() / values.min())
