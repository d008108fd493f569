from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.alerts.rules.depth import Span, closeness, longest_run, number


@given(st.lists(st.booleans(), max_size=40))
def test_longest_run_is_true_throughout_and_no_run_is_longer(holds):
    span = longest_run(np.array(holds, dtype=bool))

    longest = max(
        (len(run) for run in "".join("x" if h else " " for h in holds).split()), default=0
    )
    assert (0 if span is None else len(span)) == longest
    assert span is None or all(holds[span.first : span.last + 1])


def test_of_equal_runs_the_deepest_is_named():
    assert longest_run(np.array([True, False, True])) == Span(2, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2.5e-7, "2.5·10⁻⁷"),
        (12.34, "12.3"),
        (999.7, "1000"),
        (2134.2, "2134"),
        (1e6, "1.0·10⁶"),
        (np.inf, "inf"),
    ],
)
def test_number_reads_as_a_person_writes_it(value, text):
    assert number(value) == text


def test_closeness_keeps_what_rounding_to_one_would_hide():
    assert closeness(0.9998) == "1 − 2.0·10⁻⁴"
