"""Sums over intervals of tokens against sums written out token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dslm.masks.token_intervals import TokenIntervals


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_sums_and_shared_sums_equal_those_over_tokens(
    sizes: list[int], data: st.DataObject
) -> None:
    n = sum(sizes)
    ends = sorted(data.draw(st.lists(st.integers(1, n), min_size=1, max_size=6)))
    back = data.draw(st.integers(1, n + 3))
    starts = [max(end - back, 0) for end in ends]
    values = np.random.default_rng(n).standard_normal((len(sizes), 2))
    tokens = np.repeat(values, sizes, axis=0)

    intervals = TokenIntervals(
        np.array(sizes, float), np.array(starts, float), np.array(ends, float)
    )

    summed = [tokens[a:b].sum(0) for a, b in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(intervals.tokens @ values, summed, atol=1e-12)
    shared = [
        [tokens[max(a, c) : min(b, d), 0].sum() for c, d in zip(starts, ends, strict=True)]
        for a, b in zip(starts, ends, strict=True)
    ]
    np.testing.assert_allclose(intervals.overlap_sums(values[:, 0]), shared, atol=1e-12)
