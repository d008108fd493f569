"""Users' rules judge as they say, on values that nobody else made."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.alerts.lifecycle import Transition, advance
from server.alerts.rules import (
    Expected,
    Finding,
    Key,
    Observation,
    RunningStats,
    StackFacts,
    Verdict,
)
from server.alerts.user_rules.judging import UserRule, judged_by, rules_for, stored_rule
from server.alerts.user_rules.schemas import RuleRequest

ID = "a" * 32
NAN = float("nan")


def rule(condition: dict[str, Any], series: str | None = "decoder/stream/variance", **more: Any):
    body = {"name": "mine", "condition": condition, "series": series, **more}
    return stored_rule(ID, RuleRequest.model_validate(body))


def step_of(step: int, values: dict[str, Any], *, sampled: bool = True, **more: Any) -> Observation:
    arrays = {key: np.atleast_1d(np.asarray(value, float)) for key, value in values.items()}
    facts = more.pop("facts", StackFacts(n_layers=2))
    stacks = {key.split("/")[0]: facts for key in arrays if not key.startswith("/")}
    return Observation(step, arrays, stacks if sampled else {}, sampled=sampled, **more)


def transitions(of: UserRule, steps: list[Observation]) -> list[Transition]:
    pasts: Any = {}
    tracks: Any = {}
    changes: list[Transition] = []
    for step in steps:
        verdict = Verdict((), frozenset(), RunningStats(step=step.step), step.sampled)
        verdict, pasts = judged_by([of], verdict, step, pasts)
        tracks, more = advance(tracks, verdict)
        changes += more
    return changes


def kinds(of: UserRule, steps: list[Observation]) -> list[tuple[str, int]]:
    return [(each.kind, each.step) for each in transitions(of, steps)]


def finding_at(of: UserRule, step: Observation) -> Finding | None:
    verdict, _ = judged_by([of], Verdict((), frozenset(), RunningStats()), step, {})
    return verdict.findings[0] if verdict.findings else None


def variances(*rows: list[float]) -> list[Observation]:
    return [step_of(at, {"decoder/stream/variance": row}) for at, row in enumerate(rows)]


def test_a_limit_holds_at_the_layers_that_pass_it():
    finding = finding_at(rule({"kind": "above", "value": 4.0}), variances([1.0, 5.0, 9.0])[0])

    assert finding is not None and finding.rule == f"user:{ID}"
    assert (finding.first_layer, finding.last_layer, finding.measured) == (1, 2, 9.0)
    assert finding.message == (
        "At step 0 the decoder's stream variance in layers 1–2 is 9 at layer 2, above 4."
    )


def test_layers_that_a_rule_does_not_name_are_not_looked_at():
    first = rule({"kind": "above", "value": 4.0}, layers={"first": 0, "last": 1})

    assert finding_at(first, variances([1.0, 2.0, 9.0])[0]) is None
    assert finding_at(first, variances([1.0, 5.0, 9.0])[0]) is not None


def test_an_alert_opens_and_ends_after_as_many_samples_as_the_rule_says():
    below = rule({"kind": "below", "value": 1.0}, for_samples=2, clear_samples=3)
    low, high = [0.5, 0.5], [2.0, 2.0]

    changes = kinds(below, variances(low, high, low, low, low, high, high, low, high, high, high))

    assert changes == [("opened", 3), ("resolved", 10)]


def test_depth_is_judged_at_samples_and_scalars_at_every_step():
    depth = rule({"kind": "above", "value": 1.0}, for_samples=2)
    loss = rule({"kind": "above", "value": 1.0}, "/loss/value", for_samples=2)
    values = {"decoder/stream/variance": [5.0], "/loss/value": 5.0}
    steps = [
        step_of(0, values),
        step_of(1, {"/loss/value": 5.0}, sampled=False),
        step_of(2, {"/loss/value": 5.0}, sampled=False),
        step_of(3, values),
    ]

    assert kinds(depth, steps) == [("opened", 3)]
    assert kinds(loss, steps) == [("opened", 1)]


@pytest.mark.parametrize(
    ("kind", "row", "opens"),
    [("rises", 21.0, True), ("rises", 19.0, False), ("falls", 4.9, True), ("falls", 5.1, False)],
)
def test_a_factor_is_taken_of_the_median_of_the_window(kind: str, row: float, opens: bool):
    moved = rule({"kind": kind, "factor": 2.0, "window": 3})
    past = [[1.0], [9.0], [10.0], [11.0]]  # the first lies before the window

    assert kinds(moved, variances(*past, [row])) == ([("opened", 4)] if opens else [])


def test_nothing_is_said_before_a_window_is_full():
    moved = rule({"kind": "rises", "factor": 2.0, "window": 3})

    assert kinds(moved, variances([1.0], [1.0], [100.0])) == []


def test_a_series_that_is_gone_is_missing_and_a_step_between_samples_is_not():
    gone = rule({"kind": "missing"}, for_samples=2)
    steps = [
        step_of(0, {"decoder/stream/variance": [1.0]}),
        step_of(1, {"/loss/value": 1.0}, sampled=False),
        step_of(2, {"decoder/stream/variance": [NAN, NAN]}),
        step_of(3, {"/loss/value": 1.0}),
    ]

    assert kinds(gone, steps) == [("opened", 3)]


def test_a_loss_that_is_not_given_is_missing():
    gone = rule({"kind": "missing"}, "/loss/value")
    given_, not_given = step_of(0, {"/loss/value": 1.0}), step_of(1, {"/loss/value": NAN})
    absent = step_of(1, {"/loss/value": NAN}, absent=frozenset({"/loss/value"}))

    assert kinds(gone, [given_, absent]) == [("opened", 1)]
    assert kinds(gone, [given_, not_given]) == [("opened", 1)]


def curves(low: float, high: float) -> StackFacts:
    def over(value: float) -> np.ndarray:
        return np.full(3, value)

    middle = (low + high) / 2
    curve = (over(middle), over(low), over(high))
    return StackFacts(n_layers=2, expected=(Expected(0, *curve, *curve, *curve),))


@pytest.mark.parametrize(
    ("series", "values", "holds"),
    [
        ("decoder/stream/variance", [1.0, 1.0, 2.9], False),  # the band ends at 1.5, times 2
        ("decoder/stream/variance", [1.0, 1.0, 3.1], True),
        ("decoder/stream/variance", [1.0, 1.0, 0.2], True),
        ("decoder/stream/correlation", [1.0, 1.0, 1.59], False),  # a gap of 0.1
        ("decoder/stream/correlation", [1.0, 1.0, 1.61], True),
        ("decoder/stream_gradient/variance", [30.0, 10.0, 10.0], False),  # relative to the top
        ("decoder/stream_gradient/variance", [31.0, 10.0, 10.0], True),
    ],
)
def test_a_band_is_left_by_a_factor_or_by_a_gap(series: str, values: list[float], holds: bool):
    outside = rule({"kind": "outside_band", "factor": 2.0, "gap": 0.1}, series)
    finding = finding_at(outside, step_of(0, {series: values}, facts=curves(0.5, 1.5)))

    assert (finding is not None) == holds
    assert finding is None or finding.predicted == 1.0


def test_without_a_prediction_a_band_says_nothing():
    outside = rule({"kind": "outside_band"})

    assert kinds(outside, variances([1e9, 1e9, 1e9])) == []


def test_a_star_is_every_stack_each_with_its_own_alert():
    every = rule({"kind": "above", "value": 1.0}, "*/stream/variance")
    step = step_of(0, {"decoder/stream/variance": [2.0], "encoder/stream/variance": [3.0]})

    opened = [change.key for change in transitions(every, [step])]
    assert opened == [
        Key(f"user:{ID}", "decoder", "stream"),
        Key(f"user:{ID}", "encoder", "stream"),
    ]


def test_a_rule_that_is_gone_resolves_what_it_opened():
    above = rule({"kind": "above", "value": 1.0})
    steps = variances([2.0], [2.0])
    verdict, pasts = judged_by([above], Verdict((), frozenset(), RunningStats()), steps[0], {})
    tracks, _ = advance({}, verdict)

    verdict, _ = judged_by([], Verdict((), frozenset(), RunningStats(step=1)), steps[1], pasts)
    tracks, changes = advance(tracks, verdict)

    assert [change.kind for change in changes] == ["resolved"] and not tracks


def test_a_step_that_is_judged_again_changes_nothing():
    above = rule({"kind": "above", "value": 1.0}, for_samples=2)
    (step,) = variances([2.0])
    _, pasts = judged_by([above], Verdict((), frozenset(), RunningStats()), step, {})

    again, after = judged_by(
        [above], Verdict((), frozenset(), RunningStats()), step, pasts, is_replay=True
    )

    assert again.findings == () and again.judged == frozenset() and after == pasts
    assert above.name in again.holds


@pytest.mark.parametrize(
    ("scope", "judges"),
    [
        ({}, True),
        ({"project": "p"}, True),
        ({"project": "other"}, False),
        ({"tags": ["a"]}, True),
        ({"tags": ["a", "c"]}, False),
        ({"enabled": False}, False),
    ],
)
def test_a_rule_judges_the_runs_that_it_is_for(scope: dict[str, Any], judges: bool):
    scoped = rule({"kind": "missing"}, **scope)

    assert (rules_for([scoped], project="p", tags=["a", "b"]) == (scoped,)) == judges


@given(
    rows=st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3),
        min_size=1,
        max_size=12,
    ),
    condition=st.sampled_from(
        [
            {"kind": "above", "value": 1.0},
            {"kind": "below", "value": -1.0},
            {"kind": "rises", "factor": 1.5, "window": 2},
            {"kind": "falls", "factor": 1.5, "window": 2},
            {"kind": "outside_band", "factor": 1.5},
            {"kind": "missing"},
        ]
    ),
)
def test_no_value_makes_a_rule_fail_or_alerts_open_twice(rows: list[list[float]], condition: Any):
    with np.errstate(all="ignore"):
        changes = transitions(
            rule(condition, clear_samples=1),
            [
                step_of(at, {"decoder/stream/variance": row}, facts=curves(0.5, 1.5))
                for at, row in enumerate(rows)
            ],
        )

    ends = [change.kind for change in changes if change.kind in ("opened", "resolved")]
    assert all(a != b for a, b in pairwise(ends))
