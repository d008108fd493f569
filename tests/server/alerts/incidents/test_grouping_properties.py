"""What grouping promises of any course of alerts."""

from __future__ import annotations

from itertools import groupby
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from server.alerts.incidents.causes import domain_of
from server.alerts.incidents.grouping import JOIN_STEPS, AlertChange, Incident, regroup
from server.alerts.rules import RULES
from tests.server.alerts.incidents.samples import change

NAMES = sorted(rule.name for rule in RULES)
SEVERITIES = ["info", "warning", "critical"]
TRIES = st.lists(
    st.tuples(
        st.integers(0, 90),  # steps that pass before
        st.sampled_from(NAMES),
        st.sampled_from(["open", "escalate", "worsen", "persist", "resolve"]),
        st.sampled_from(SEVERITIES),
        st.integers(0, 40),  # steps that a rule held before its alert opened
    ),
    max_size=40,
)


def course(tries: list[tuple[int, str, str, str, int]]) -> list[AlertChange]:
    """What a lifecycle could say: an alert opens, changes while it is open, and is resolved."""
    changes: list[AlertChange] = []
    severity_of: dict[str, str] = {}
    count: dict[str, int] = {}
    step, touched = 0, set()
    for pause, rule, verb, severity, held in tries:
        step += pause
        touched = touched if pause == 0 else set()
        if rule in touched:  # of one key there is one transition a step
            continue
        touched.add(rule)
        if rule not in severity_of:
            severity_of[rule] = severity
            count[rule] = count.get(rule, -1) + 1
            began = max(step - held, 0)
            changes.append(change("opened", rule, step, severity, began=began, nth=count[rule]))
        elif verb == "resolve":
            del severity_of[rule]
            changes.append(change("resolved", rule, step, nth=count[rule]))
        else:
            severer = SEVERITIES.index(severity) > SEVERITIES.index(severity_of[rule])
            kind = "escalated" if severer else "worsened" if verb == "worsen" else "persisted"
            severity_of[rule] = severity if severer else severity_of[rule]
            changes.append(change(kind, rule, step, severity_of[rule], nth=count[rule]))
    return changes


@given(TRIES, st.randoms(use_true_random=False))
def test_order_of_arrival_within_a_step_changes_nothing(tries, random: Random):
    changes = course(tries)
    shuffled = []
    for _, of_step in groupby(changes, key=lambda each: each.step):
        shuffled += random.sample(same := list(of_step), len(same))

    assert regroup([], shuffled) == regroup([], changes)


@given(TRIES)
def test_replay_gives_the_same_incidents(tries):
    changes = course(tries)

    assert regroup([], changes) == regroup([], list(changes))


@given(TRIES, st.integers(1, 5))
def test_restart_between_any_two_steps_changes_nothing(tries, steps_a_batch: int):
    changes = course(tries)
    steps = [list(of_step) for _, of_step in groupby(changes, key=lambda each: each.step)]
    incidents: dict[str, Incident] = {}
    lines = []
    for at in range(0, len(steps), steps_a_batch):
        batch = [each for of_step in steps[at : at + steps_a_batch] for each in of_step]
        stored = {key: each for key, each in incidents.items() if is_current(each, batch[0].step)}
        changed, new = regroup(stored.values(), batch)
        incidents = incidents | changed
        lines += new

    assert (incidents, lines) == regroup([], changes)


def is_current(incident: Incident, step: int) -> bool:
    """Whether a process that has just started reads an incident before it judges a step."""
    if incident.closed_step is None or any(e.holds for e in incident.evidence):
        return True
    return incident.closed_step >= step - JOIN_STEPS


@given(TRIES)
def test_every_alert_belongs_to_one_incident_of_its_domain(tries):
    changes = course(tries)
    incidents, _ = regroup([], changes)

    grouped = [e.alert for incident in incidents.values() for e in incident.evidence]
    assert sorted(grouped) == sorted({each.alert for each in changes})
    for incident in incidents.values():
        assert {domain_of(e.key) for e in incident.evidence} == {incident.domain}


@given(TRIES)
def test_incident_is_resolved_exactly_when_nothing_weighty_holds(tries):
    incidents, _ = regroup([], course(tries))

    for incident in incidents.values():
        weighty = [e for e in incident.evidence if e.severity != "info"] or incident.evidence
        assert (incident.status == "resolved") == (not any(e.holds for e in weighty))


@given(TRIES)
def test_timeline_tells_of_every_opening_and_ending_in_turn(tries):
    incidents, lines = regroup([], course(tries))

    for incident_id, incident in incidents.items():
        kinds = [line.kind for line in lines if line.incident == incident_id]
        turns = [kind for kind in kinds if kind in ("opened", "resolved", "reopened")]
        assert turns[0] == "opened"
        assert turns[1:] == (["resolved", "reopened"] * len(turns))[: len(turns) - 1]
        assert (turns[-1] == "resolved") == (incident.status == "resolved")


@given(TRIES)
def test_root_is_one_of_the_incidents_own_alerts_and_no_milder_than_a_warning_if_there_is_one(
    tries,
):
    incidents, _ = regroup([], course(tries))

    for incident in incidents.values():
        assert incident.root in incident.evidence
        assert (incident.root.severity == "info") == (incident.severity == "info")
