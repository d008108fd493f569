"""Rules on what is measured when a user asks for more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.alerts.rules import Observation, RunningStats
from server.alerts.rules.numerics import dead_units, format_overflow, log_z_growth, update_size

NOTHING = RunningStats()


def observed(**series: list[float]) -> Observation:
    """One step's series; ``__`` stands for a slash in their keys."""
    values = {key.replace("__", "/"): np.array(one) for key, one in series.items()}
    return Observation(step=7, values=values)


def test_a_large_update_names_the_block_and_its_share():
    seen = observed(decoder__updates__ratio=[1e-3, 0.04, 0.05, float("nan"), 2e-3])

    (found,) = update_size(seen, NOTHING)

    assert (found.first_layer, found.last_layer, found.severity) == (1, 2, "warning")
    assert found.measured == pytest.approx(0.05)
    assert "block 2 by 5 % of their size" in found.message and "At step 7" in found.message


# Measured maxima of healthy runs: learning rates 3e-4, 1e-3, 1e-2.
@pytest.mark.parametrize("ratio", [1.65e-3, 3.56e-3, 1.94e-2])
def test_updates_of_healthy_runs_are_no_finding(ratio: float):
    assert update_size(observed(decoder__updates__ratio=[ratio] * 6), NOTHING) == []


def test_the_update_of_the_whole_model_alone_is_no_finding():
    assert update_size(observed(__updates__ratio=[0.5]), NOTHING) == []


@pytest.mark.parametrize(("size", "holds"), [(8.9, False), (29.0, False), (364.4, True)])
def test_log_z_is_judged_by_its_root_mean_square(size: float, holds: bool):
    found = log_z_growth(observed(__log_z__mean_square=[size**2]), NOTHING)

    assert bool(found) == holds
    if found:
        assert found[0].measured == pytest.approx(size) and "364" in found[0].message


def test_values_too_large_for_float16_are_information_at_every_site():
    seen = observed(
        decoder__stream__fp16_overflow=[0.0, 0.0, 1e-6],
        encoder__feed_forward__fp16_overflow=[0.25, 0.0],
        decoder__stream__fp8_e4m3_overflow=[1.0, 1.0, 1.0],
    )

    found = {one.key: one for one in format_overflow(seen, NOTHING)}

    assert {(key.stack, key.site) for key in found} == {
        ("decoder", "stream"),
        ("encoder", "feed_forward"),
    }
    assert {one.severity for one in found.values()} == {"info"}
    assert {one.first_layer for one in found.values()} == {2, 0}


def test_dead_units_are_named_but_not_in_gradients():
    seen = observed(
        decoder__activation__zeros=[0.6, 0.995],
        decoder__stream_gradient__zeros=[1.0, 1.0, 1.0],
    )

    (found,) = dead_units(seen, NOTHING)

    assert (found.site, found.first_layer, found.severity) == ("activation", 1, "info")
    assert "99.5% of the values of the decoder's activation at layer 1" in found.message


RULES = (update_size, log_z_growth, format_overflow, dead_units)


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_measures_nothing_more_is_not_judged(rule: object):
    assert rule(observed(decoder__stream__variance=[1.0, 2.0]), NOTHING) == []  # type: ignore[operator]


@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_no_value_whatever_raises(values: list[float]):
    seen = observed(
        decoder__updates__ratio=values,
        decoder__stream__fp16_overflow=values,
        decoder__stream__zeros=values,
        __log_z__mean_square=values[:1],
    )

    with np.errstate(all="ignore"):
        for rule in RULES:
            rule(seen, NOTHING)
