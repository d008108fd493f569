from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dashboard import phrases, vectors
from dashboard.api_types import RunDetail, RunSummary
from dashboard.pages.details import _rank_rows
from dashboard.pages.health import health_notes
from dashboard.pages.suggestions import suggested_comparisons
from tests.dashboard.samples import alert, run_detail, run_summary


@given(arrays(np.float32, st.integers(0, 50)))
def test_decode_returns_what_the_api_packed(values: np.ndarray) -> None:
    packed = base64.b64encode(values.astype("<f4").tobytes()).decode()

    np.testing.assert_array_equal(vectors.decode(packed), values.astype(float))


def test_relative_to_top_ends_at_one() -> None:
    assert list(vectors.relative_to_top(np.array([4.0, 2.0]))) == [2.0, 1.0]


def test_relative_to_a_top_of_zero_is_not_finite_and_does_not_warn() -> None:
    assert not np.isfinite(vectors.relative_to_top(np.array([1.0, 0.0]))).any()


@pytest.mark.parametrize(
    ("sent", "meant"), [(math.nan, math.nan), (-math.inf, -math.inf), (None, math.nan), (2, 2.0)]
)
def test_number_of_null_is_nan(sent: float | None, meant: float) -> None:
    np.testing.assert_equal(vectors.number(sent), meant)


def run(
    name: str, placement: str | None, size: str = "24 × 64", project: str = "demo"
) -> RunSummary:
    words = {"pre": "Pre", "post": "Post", None: "No"}[placement]
    architecture = f"{words}-LN decoder, {size}"
    return run_summary(
        id=name, name=name, project=project, placement=placement, architecture=architecture
    )


def test_suggestion_lays_pre_ln_beside_every_post_ln_of_its_size() -> None:
    runs = [run("scaled", "post"), run("plain", "post"), run("pre", "pre")]

    assert [suggestion.href for suggestion in suggested_comparisons(runs)] == [
        "/compare?runs=pre,scaled,plain"
    ]


def test_suggestion_puts_scaled_residuals_after_plain_post_ln() -> None:
    scaled = run("scaled", "post", "24 × 64, λ 0.957, β 0.289")

    suggestions = suggested_comparisons([scaled, run("plain", "post"), run("pre", "pre")])

    assert [suggestion.names for suggestion in suggestions] == [("pre", "plain", "scaled")]


def test_suggestion_needs_both_placements_of_one_project_and_size() -> None:
    others = [run("a", "post", "12 × 64"), run("b", "post", project="other"), run("c", None)]

    assert suggested_comparisons([run("pre", "pre"), *others]) == []


def test_suggestion_takes_at_most_four_runs() -> None:
    runs = [run("pre", "pre"), *(run(f"post-{i}", "post") for i in range(6))]

    assert len(suggested_comparisons(runs)[0].run_ids) == 4


def health(*ranks: dict, **changes: object) -> RunDetail:
    return run_detail(health={str(rank): report for rank, report in enumerate(ranks)}, **changes)


def test_health_is_calm_when_nothing_was_lost() -> None:
    calm = health({"dropped": 0, "resent": 2, "overhead": 0.01})

    assert not any(note.is_bad for note in health_notes(calm))


def test_health_says_what_was_lost_silent_and_failing() -> None:
    rank = {
        "silent": ["a"],
        "stopped": ["b"],
        "failures": 2,
        "first_failure": "boom",
        "overhead": 0.2,
    }

    notes = health_notes(health({"dropped": 7, **rank}))

    assert [note.text for note in notes if note.is_bad] == [
        "20.0% overhead",
        "7 frames lost",
        "1 place stopped",
        "2 failures in the agent",
    ]


def test_places_never_measured_are_a_quiet_note_that_names_them() -> None:
    notes = health_notes(health({"silent": ["decoder/attention[0]", "decoder/attention[1]"]}))

    assert ("2 places not measured", False, "decoder/attention[0], decoder/attention[1]") in notes


def test_health_names_sites_that_were_given_up_with_their_reason() -> None:
    sites = ["attention_logits", "absent: the pattern fits no module of any stage"]

    notes = health_notes(health({"dropped_sites": sites}))

    assert ("2 sites not measured", True, "\n".join(sorted(sites))) in notes


def test_details_name_sites_that_were_given_up() -> None:
    report = {"every": 2, "dropped_sites": ["log_z", "attention"]}

    (row,) = _rank_rows(health(report).health)

    assert row[1].endswith("not measured: log_z, attention")


def test_health_says_which_steps_were_recorded_twice() -> None:
    resumed = health({}, superseded=[[40, 59], [70, 70]])

    texts = [note.text for note in health_notes(resumed)]

    assert "steps 40–59 were recorded twice; the later ones are shown" in texts
    assert "step 70 was recorded twice; the later ones are shown" in texts


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.5, "0.5"),
        (0.9998, "1 − 2.0 × 10⁻⁴"),
        (1.0, "1"),
        (1 - 3e-7, "1 − 3.0 × 10⁻⁷"),
        (None, "–"),
    ],
)
def test_correlation_near_one_is_told_by_its_distance(value: float | None, written: str) -> None:
    assert phrases.correlation(value) == written


@pytest.mark.parametrize(
    ("quantity", "unit", "written"),
    [
        ("correlation", "correlation", "1 − 1.0 × 10⁻⁴"),
        ("variance", "relative to the top", "0.9999 relative to the top"),
    ],
)
def test_alert_names_a_unit_only_where_the_quantity_does_not(
    quantity: str, unit: str, written: str
) -> None:
    assert phrases.measure(alert(quantity=quantity, unit=unit), 0.9999) == written


def test_health_counts_every_rank() -> None:
    two = health({"dropped": 1}, {"dropped": 2})

    assert "3 frames lost" in [note.text for note in health_notes(two)]
