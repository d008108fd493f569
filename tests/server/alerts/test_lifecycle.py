from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.alerts.lifecycle import Track, advance
from server.alerts.rules import Advice, Finding, RunningStats, Verdict

OPENS, CLEARS = 5, 20  # rank_collapse


def finding(step: int, severity: str = "warning", badness: float = 1.0) -> Finding:
    return Finding(
        rule="rank_collapse",
        severity=severity,
        title="t",
        message="m",
        advice=Advice("a"),
        step=step,
        stack="decoder",
        site="stream",
        quantity="correlation",
        measured=1.0,
        badness=badness,
    )


def play(pattern, tracks=None):
    """Events of a pattern over steps: a finding, None for clear, or "unjudged"."""
    tracks, events = tracks or {}, []
    for step, holds in enumerate(pattern):
        judged = frozenset() if holds == "unjudged" else frozenset({"rank_collapse"})
        findings = (holds(step),) if callable(holds) else ()
        verdict = Verdict(findings, judged, RunningStats(step=step))
        tracks, new = advance(tracks, verdict)
        events += [(event.kind, event.step) for event in new]
    return events


def test_an_alert_opens_after_its_samples_in_a_row():
    assert play([finding] * OPENS) == [("opened", OPENS - 1)]


def test_a_gap_starts_the_count_again():
    assert play([finding] * (OPENS - 1) + [None] + [finding] * (OPENS - 1)) == []


def test_an_alert_is_resolved_after_its_clear_samples_in_a_row():
    pattern = [finding] * OPENS + [None] * CLEARS

    assert play(pattern) == [("opened", OPENS - 1), ("resolved", OPENS + CLEARS - 1)]


def test_a_flicker_does_not_resolve_an_alert():
    pattern = [finding] * OPENS + ([None] * (CLEARS - 1) + [finding]) * 3

    assert "resolved" not in [kind for kind, _ in play(pattern)]


def test_steps_that_were_not_judged_neither_hold_nor_clear():
    pattern = [finding] * OPENS + ["unjudged"] * 100

    assert play(pattern) == [("opened", OPENS - 1)]


def test_a_more_severe_finding_escalates_at_once_and_once():
    def critical(step):
        return finding(step, "critical")

    events = play([finding] * OPENS + [critical, critical])

    assert events == [("opened", OPENS - 1), ("escalated", OPENS)]


def test_a_lasting_alert_keeps_its_last_step_current():
    events = play([finding] * (OPENS + 40))

    assert [kind for kind, _ in events] == ["opened", "persisted", "persisted"]


def test_a_milder_finding_never_takes_back_what_was_told():
    def critical(step):
        return finding(step, "critical", badness=9.0)

    events = play([critical] * OPENS + [finding] * 40 + [critical])

    assert {kind for kind, _ in events} == {"opened", "persisted"}


def test_a_much_worse_value_is_told_again():
    def worse(step):
        return finding(step, badness=2.0)

    events = play([finding] * OPENS + [worse] * 10)

    assert [kind for kind, _ in events] == ["opened", "worsened"]


def test_an_alert_open_before_a_restart_is_not_opened_again():
    tracks = {finding(0).key: Track(open=True, severity="warning")}

    kinds = [kind for kind, _ in play([finding] * 30, tracks)]

    assert "opened" not in kinds


@given(st.lists(st.sampled_from([finding, None, "unjudged"]), max_size=120))
def test_openings_and_resolutions_alternate(pattern):
    turns = [kind for kind, _ in play(pattern) if kind in {"opened", "resolved"}]

    assert all(kind == ("opened", "resolved")[i % 2] for i, kind in enumerate(turns))
