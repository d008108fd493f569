"""Alignment of branches and stream at every step of a run, as far as variances tell it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dslm.ahead import alignment, block_alignment
from server.profiles.derived.model_facts import Sums

Floats = NDArray[np.float64]

# The stream between the branches is what the feed-forward layer's norm is given.
SEPARATE = ("pre", "sandwich")


def alignments(stack: str, series: Mapping[str, Floats], sums: Sums) -> dict[str, Floats]:
    """``attention``, ``feed_forward`` and ``block``, each (steps, N); NaN where it cannot be told.

    Args:
        stack: the stack's name.
        series: measured series by key, (steps, n).
        sums: how its blocks add up.
    """
    stream = series[f"{stack}/stream/variance"]
    before, after = stream[:, :-1], stream[:, 1:]
    absent = np.full_like(before, np.nan)
    if len(sums.placement) != before.shape[1]:  # described with another depth than it has now
        return dict.fromkeys(("attention", "feed_forward", "block"), absent)
    attention = series.get(f"{stack}/attention/variance", absent)
    feed_forward = series.get(f"{stack}/feed_forward/variance", absent)
    middle = series.get(f"{stack}/feed_forward_norm_input/variance", absent)
    summed = series.get(f"{stack}/attention_norm_input/variance", absent)
    separate = _where(sums, SEPARATE)
    of_attention = np.where(separate, middle, np.where(_where(sums, ("post",)), summed, np.nan))
    adds_up = _where(sums, ("pre", "sandwich", "branch", "parallel"))
    parallel = _where(sums, ("parallel",))
    # Both parallel branches are added to the stream in one sum.
    attention_lam = np.where(parallel, 1.0, sums.feed_forward_lam)
    lam = np.where(parallel, sums.attention_lam, sums.attention_lam * sums.feed_forward_lam)
    return {
        "attention": alignment(
            before,
            attention,
            of_attention,
            lam=sums.attention_lam,
            p_drop=sums.attention_p_drop,
        ),
        "feed_forward": alignment(
            np.where(separate, middle, np.nan),
            feed_forward,
            after,
            lam=sums.feed_forward_lam,
            p_drop=sums.feed_forward_p_drop,
        ),
        "block": block_alignment(
            np.where(adds_up, before, np.nan),
            attention,
            feed_forward,
            after,
            lam=lam,
            attention_lam=attention_lam,
            p_drop=(sums.attention_p_drop, sums.feed_forward_p_drop),
        ),
    }


def _where(sums: Sums, placements: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([placement in placements for placement in sums.placement])
