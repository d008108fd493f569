"""What the theory says of a model: one curve over depth for each direction and stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dslm.spec import Floats, Missing


@dataclass(frozen=True, slots=True)
class Curve:
    """Predicted moments of the residual stream over depth, each float64[N+1].

    Index 0 is the input of block 0, index N the output of the last block, before a final norm.
    NaN where nothing is predicted.

    Attributes:
        variance: E[x²] - (E x)² over batch, tokens and features, averaged over draws of the
            weights.
        correlation: the covariance between different tokens of a sequence, over the variance;
            averaged over draws, too.
        variance_low, variance_high: bounds of about 95 % of the layers of one model whose
            weights are drawn anew. They lie around the typical draw, which is below the mean
            where draws scatter by a factor (`dslm.bands`).
        correlation_low, correlation_high: the same for the correlation.
    """

    variance: Floats
    variance_low: Floats
    variance_high: Floats
    correlation: Floats
    correlation_low: Floats
    correlation_high: Floats


@dataclass(frozen=True, slots=True)
class StackPrediction:
    """Predictions for one stack.

    Attributes:
        forward: moments of the stream.
        backward: moments of dLoss/d(stream), its variance relative to the last value, which is 1.
        score_variance: float64[N], variance of one query's attention scores over the positions
            it sees, averaged over queries.
        attention_variance: float64[N], second moment of what the attention branch adds to the
            stream, with its norm and scale, before its residual dropout.
        feed_forward_variance: float64[N], the same for the feed-forward branch.
        gradient_scale: variance of dLoss/d(output of the last block), in absolute units: what
            `backward.variance` is relative to. NaN where no head is known.
        logit_variance: variance of one token's logits over the classes. NaN without a head.
        loss: the expected cross-entropy, in nats. NaN without a head.
    """

    forward: Curve
    backward: Curve
    score_variance: Floats
    attention_variance: Floats
    feed_forward_variance: Floats
    gradient_scale: float = math.nan
    logit_variance: float = math.nan
    loss: float = math.nan

    @property
    def gradient_variance(self) -> Floats:
        """Variance of dLoss/d(stream) over depth, float64[N+1], in absolute units."""
        return self.backward.variance * self.gradient_scale


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions for every stack, and what could not be predicted.

    Attributes:
        stacks: by the stack's name.
        missing: the spec's missing parts, and the places from which a curve is not finite.
    """

    stacks: Mapping[str, StackPrediction]
    missing: tuple[Missing, ...] = ()
