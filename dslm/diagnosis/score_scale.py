r"""What the scale of attention scores means for the softmax over them.

Consider n keys with independent normal scores of standard deviation s. While
:math:`s < s_c = \sqrt{2 \ln n}`, the largest weight becomes negligible as n grows; beyond, it
remains a finite share. This is the condensation of a random energy model of inverse temperature s.
The number of keys that share the weight is taken as :math:`1/\sum_j a_j^2` for scores at the n
quantiles :math:`\Phi^{-1}((j - 1/2)/n)`: n for equal scores, 1 where a single key has all weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from dslm.spec import Attention, Floats, Stack

Meaning = Literal["near uniform", "selective", "saturated"]
NEAR_UNIFORM_SHARE = 0.5  # of the keys
MAX_QUANTILES = 4096  # of more keys, the share that carries the weight is taken from this many


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """The largest attention scores of a stack.

    Attributes:
        std: standard deviation of one query's scores, in the layer where it is largest.
        layer: that layer.
        keys: mean number of keys that a query sees.
        effective_keys: number of keys that share its weight.
        limit: standard deviation at which the softmax saturates: few keys, little gradient.
    """

    std: float
    layer: int
    keys: float
    effective_keys: float
    limit: float

    @property
    def meaning(self) -> Meaning:
        """``"near uniform"`` where at least half of the keys share the weight, ``"saturated"``
        from `limit` on, else ``"selective"``.
        """
        if self.std >= self.limit:
            return "saturated"
        uniform = self.effective_keys >= NEAR_UNIFORM_SHARE * self.keys
        return "near uniform" if uniform else "selective"


def largest_scores(stack: Stack, score_variance: Floats) -> ScoreScale | None:
    """Return the score scale of the layer where it is largest; None where none is predicted."""
    if not np.isfinite(score_variance).any():
        return None
    layer = int(np.nanargmax(score_variance))
    block = stack.blocks[layer]
    assert block is not None  # a layer that is not understood has no score variance
    std = math.sqrt(float(score_variance[layer]))
    keys = visible_keys(block.attention, int(stack.input_kernel.cell_sizes.sum()))
    limit = math.sqrt(2 * math.log(max(keys, 2.0)))
    return ScoreScale(std, layer, keys, effective_keys(std, keys), limit)


def visible_keys(attention: Attention, seq_len: int) -> float:
    """Return the mean number of keys that a query of `seq_len` tokens sees."""
    position = np.arange(seq_len)
    reach = attention.window if attention.window is not None else seq_len
    if attention.causal:
        visible = np.maximum(np.minimum(position + 1, reach), min(attention.prefix, seq_len))
        return float(visible.mean())
    either_side = np.minimum(position, reach) + np.minimum(seq_len - 1 - position, reach)
    return float(1 + either_side.mean())


def effective_keys(std: float, keys: float) -> float:
    r"""Return :math:`1/\sum_j a_j^2` for `keys` scores at a normal's quantiles.

    Source: derived here (module docstring).
    """
    n = max(min(round(keys), MAX_QUANTILES), 1)
    normal = NormalDist()
    scores = np.array([normal.inv_cdf((j + 0.5) / n) for j in range(n)]) * std
    weights = np.exp(scores - scores.max())
    share = float(weights.sum() ** 2 / (weights**2).sum()) / n
    return max(share * keys, 1.0)
