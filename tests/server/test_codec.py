from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server.runs import sparkline
from server.storage.codec import pack_series, unpack_series
from server.storage.downsample import downsample
from server.storage.segments import ROLLUP, rolled_up

shapes = st.tuples(st.integers(1, 40), st.integers(1, 9))
bits = shapes.flatmap(lambda shape: arrays(np.uint32, shape))


@given(bits)
def test_packed_series_returns_every_bit(bits):
    values = bits.view(np.float32)  # every NaN, both zeros, both infinities

    returned = unpack_series(pack_series(values), len(values))

    assert returned.view(np.uint32).tolist() == bits.tolist()


def test_summary_passes_over_nan_and_keeps_infinity():
    values = np.arange(2 * ROLLUP, dtype=np.float32)[:, None]
    values[3], values[ROLLUP:] = np.nan, np.nan
    values[5] = np.inf

    rollups = rolled_up(values)

    assert rollups["min"][:, 0].tolist()[0] == 0.0
    assert rollups["max"][0, 0] == np.inf
    assert np.isnan([rollups[name][1, 0] for name in ("min", "mean", "max")]).all()


@given(st.integers(0, 500), st.integers(1, 60))
def test_thinned_steps_keep_their_ends_and_their_order(count, most):
    steps = np.arange(count, dtype=np.int64) * 3

    downsampled = downsample(steps, most)

    assert len(downsampled) == min(count, most)
    assert (np.diff(downsampled) > 0).all()
    assert count == 0 or downsampled[-1] == steps[-1]


@given(st.lists(st.integers(1, 50), max_size=20))
def test_sparkline_is_the_same_however_losses_arrive(sizes):
    losses = [float(number) for number in range(sum(sizes))]
    at_once = sparkline.extend(sparkline.empty(), losses)

    grown, remaining = sparkline.empty(), losses
    for size in sizes:
        grown, remaining = sparkline.extend(grown, remaining[:size]), remaining[size:]

    assert grown == at_once
    assert len(at_once["values"]) <= sparkline.POINTS
    assert at_once["values"] == losses[:: at_once["stride"]]
