from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import (
    ABSENT,
    AGE,
    Frame,
    Layout,
    Series,
    WireError,
    first_step,
    is_absent,
    pack_steps,
    scalars_of,
    steps_layout,
    unpack_steps,
)

floats = st.floats(width=32)
ABSENT_VALUE = float(ABSENT)


def packed(last: int, times: list[float], values: np.ndarray, layout: Layout) -> Frame:
    vector = pack_steps(times, values)
    return Frame.pack(seq=1, step=last, time=times[-1], layout=layout.hash, values=vector)


@given(st.lists(st.tuples(floats, st.one_of(floats, st.just(ABSENT_VALUE))), min_size=1))
def test_steps_come_back_as_they_were_packed(rows: list[tuple[float, float]]) -> None:
    layout = steps_layout(("loss", "learning_rate"))
    values = np.array(rows, dtype=np.float32)
    values[np.isnan(values[:, 1]), 1] = ABSENT
    times = [1e9 + n / 4 for n in range(len(rows))]

    frame = packed(100_000, times, values, layout)

    unpacked = unpack_steps(frame, layout)
    assert unpacked.values.tobytes() == values.tobytes()
    assert unpacked.times.tolist() == times
    assert unpacked.steps.tolist() == list(range(100_001 - len(rows), 100_001))
    assert first_step(frame, layout) == unpacked.steps[0]


def test_a_value_that_a_step_lacks_is_told_from_a_nan() -> None:
    layout = steps_layout(("loss",))
    values = np.array([[np.nan], [ABSENT]], dtype=np.float32)

    unpacked = unpack_steps(packed(5, [1.0, 2.0], values, layout), layout)

    assert is_absent(unpacked.values[:, 0]).tolist() == [False, True]


def test_only_layouts_that_begin_with_the_age_pack_steps() -> None:
    loss = Series("", "loss", "value", 1)

    assert Layout((AGE, loss)).packs_steps
    assert scalars_of(Layout((AGE, loss))) == (loss,)
    assert not Layout((loss, AGE)).packs_steps


def test_a_layout_that_packs_steps_holds_no_vector() -> None:
    with pytest.raises(WireError) as caught:
        Layout((AGE, Series("decoder", "stream", "variance", 5))).validate()

    assert caught.value.field == "layout.series"
    assert "/step/age" in caught.value.fix
