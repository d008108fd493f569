"""Rules on what is measured when a user asks for more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.alerts.rules import Observation, RunningStats, StackFacts
from server.alerts.rules.numerics import dead_units, format_overflow, log_z_growth

NOTHING = RunningStats()


def observed(**series: list[float]) -> Observation:
    """One step's series; ``__`` stands for a slash in their keys."""
    values = {key.replace("__", "/"): np.array(numbers) for key, numbers in series.items()}
    return Observation(step=7, values=values, stacks={"decoder": StackFacts(n_layers=5)})


@pytest.mark.parametrize(("size", "holds"), [(8.9, False), (29.0, False), (364.4, True)])
def test_log_z_is_judged_by_its_root_mean_square(size: float, holds: bool):
    findings = log_z_growth(observed(__log_z__mean_square=[size**2]), NOTHING)

    assert bool(findings) == holds
    if findings:
        assert findings[0].measured == pytest.approx(size) and "364" in findings[0].message


def test_values_too_large_for_float16_are_information_at_every_site():
    observation = observed(
        decoder__stream__fp16_overflow=[0.0, 0.0, 1e-6],
        encoder__feed_forward__fp16_overflow=[0.25, 0.0],
        decoder__stream__fp8_e4m3_overflow=[1.0, 1.0, 1.0],
    )

    findings = {finding.key: finding for finding in format_overflow(observation, NOTHING)}

    assert {(key.stack, key.site) for key in findings} == {
        ("decoder", "stream"),
        ("encoder", "feed_forward"),
    }
    assert {finding.severity for finding in findings.values()} == {"info"}
    assert {finding.first_layer for finding in findings.values()} == {2, 0}


def test_dead_units_are_named_but_not_in_gradients():
    observation = observed(
        decoder__activation__zeros=[0.6, 0.995],
        decoder__stream_gradient__zeros=[1.0, 1.0, 1.0],
    )

    (finding,) = dead_units(observation, NOTHING)

    assert (finding.site, finding.first_layer, finding.severity) == ("activation", 1, "info")
    assert "99.5% of the values of the decoder's activation at layer 1" in finding.message


RULES = (log_z_growth, format_overflow, dead_units)


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_measures_nothing_more_is_not_judged(rule: object):
    assert rule(observed(decoder__stream__variance=[1.0, 2.0]), NOTHING) == []  # type: ignore[operator]


@given(st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_no_value_whatever_raises(values: list[float]):
    observation = observed(
        decoder__updates__ratio=values,
        decoder__stream__fp16_overflow=values,
        decoder__stream__zeros=values,
        __log_z__mean_square=values[:1],
    )

    with np.errstate(all="ignore"):
        for rule in RULES:
            rule(observation, NOTHING)
