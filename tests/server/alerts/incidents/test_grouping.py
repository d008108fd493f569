"""Which alerts belong together, and which is the root."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.alerts.incidents.causes import CAUSAL_ORDER, CAUSES, DOMAINS, cause_of
from server.alerts.incidents.grouping import (
    JOIN_STEPS,
    ROOT_STEPS,
    AlertChange,
    Incident,
    regroup,
)
from server.alerts.rules import RULES, Key
from tests.server.alerts.incidents.samples import change


def grouped(*changes: AlertChange) -> list[Incident]:
    incidents, _ = regroup([], changes)
    return list(incidents.values())


def timeline(*changes: AlertChange) -> list[tuple[str, int]]:
    _, lines = regroup([], changes)
    return [(line.kind, line.step) for line in lines]


def rules_of(incident: Incident) -> list[str]:
    return [evidence.key.rule for evidence in incident.evidence]


def test_every_rule_has_its_place_in_the_causal_order():
    told_apart_by_site = {"nonfinite"}

    assert {rule.name for rule in RULES} == {*CAUSES, *DOMAINS, *told_apart_by_site}
    assert set(CAUSES.values()) == set(CAUSAL_ORDER)


@pytest.mark.parametrize(("stack", "cause"), [("decoder", "stream"), ("", "loss")])
def test_rule_of_several_places_is_told_apart_by_where_it_looked(stack: str, cause: str):
    assert cause_of(Key("nonfinite", stack, "site")) == cause


def test_alerts_that_open_while_an_incident_is_open_join_it():
    (incident,) = grouped(
        change("opened", "rank_collapse", 20),
        change("opened", "attention_logit_growth", 5_000, "critical"),
    )

    assert rules_of(incident) == ["rank_collapse", "attention_logit_growth"]
    assert (incident.severity, incident.status) == ("critical", "open")


def test_root_is_the_first_in_causal_order_among_the_earliest_signs():
    (incident,) = grouped(
        change("opened", "loss_divergence", 30, began=26),
        change("opened", "attention_logit_growth", 31, began=27),
        change("opened", "update_size", 33, began=29),
    )

    assert incident.root.key.rule == "update_size"


def test_what_begins_much_later_is_no_root_however_near_to_the_cause():
    (incident,) = grouped(
        change("opened", "attention_logit_growth", 30, began=26),
        change("opened", "update_size", 40, began=26 + ROOT_STEPS + 1),
    )

    assert incident.root.key.rule == "attention_logit_growth"


def test_of_one_place_the_earliest_is_the_root():
    (incident,) = grouped(
        change("opened", "vanishing_gradient", 10, began=6),
        change("opened", "nonfinite", 27, "critical"),
    )

    assert incident.root.key.rule == "vanishing_gradient"


def test_information_is_no_root_beside_a_warning():
    (incident,) = grouped(
        change("opened", "dead_units", 20, "info", began=1),
        change("opened", "loss_divergence", 30, began=26),
    )

    assert incident.root.key.rule == "loss_divergence"


def test_departure_at_the_start_is_no_root_beside_a_fault_that_goes_on():
    (incident,) = grouped(
        change("opened", "departs_from_prediction", 2),
        change("opened", "rank_collapse", 49, began=45),
    )

    assert incident.root.key.rule == "rank_collapse"


def test_telemetry_and_lost_contact_are_incidents_of_their_own():
    incidents = grouped(
        change("opened", "rank_collapse", 20),
        change("opened", "agent_health", 20),
        change("opened", "lost_contact", 20),
    )

    assert sorted(incident.domain for incident in incidents) == ["contact", "telemetry", "training"]


def test_incident_is_resolved_once_all_its_alerts_are_clear():
    changes = [
        change("opened", "rank_collapse", 20),
        change("opened", "loss_divergence", 25),
        change("resolved", "loss_divergence", 60),
        change("resolved", "rank_collapse", 70),
    ]

    assert [incident.status for incident in grouped(*changes[:3])] == ["open"]
    (incident,) = grouped(*changes)
    assert (incident.status, incident.closed_step) == ("resolved", 70)
    assert timeline(*changes)[-2:] == [("cleared", 70), ("resolved", 70)]


@pytest.mark.parametrize(("later", "count"), [(JOIN_STEPS, 1), (JOIN_STEPS + 1, 2)])
def test_alert_shortly_after_the_end_reopens_the_incident(later: int, count: int):
    incidents = grouped(
        change("opened", "rank_collapse", 20),
        change("resolved", "rank_collapse", 60),
        change("opened", "loss_divergence", 60 + later),
    )

    assert len(incidents) == count
    assert incidents[-1].status == "open"


def test_alert_of_a_step_before_the_end_of_an_incident_is_of_another_course():
    incidents = grouped(
        change("opened", "rank_collapse", 820),
        change("resolved", "rank_collapse", 860),
        change("opened", "rank_collapse", 500, nth=1),
    )

    assert len(incidents) == 2


def test_alert_after_a_resolution_by_hand_is_news():
    (incident,) = grouped(change("opened", "rank_collapse", 20))
    by_hand = replace(incident, status="resolved")

    incidents, _ = regroup([by_hand], [change("opened", "rank_collapse", 26, nth=1)])

    assert len(incidents) == 2


def test_clearing_and_opening_in_one_step_keeps_the_incident_open():
    changes = [
        change("opened", "rank_collapse", 20),
        change("resolved", "rank_collapse", 60),
        change("opened", "loss_divergence", 60),
    ]

    (incident,) = grouped(*changes)
    assert incident.status == "open"
    assert "resolved" not in [kind for kind, _ in timeline(*changes)]


@pytest.mark.parametrize(
    ("rule", "severity"), [("dead_units", "info"), ("departs_from_prediction", "warning")]
)
def test_alert_that_may_last_for_a_healthy_run_gathers_nothing_for_ever(rule, severity):
    soon, late = (
        grouped(
            change("opened", rule, 20, severity),
            change("opened", "loss_divergence", 20 + later),
        )
        for later in (JOIN_STEPS, JOIN_STEPS + 1)
    )

    assert (len(soon), len(late)) == (1, 2)


def test_information_alone_keeps_no_incident_open_that_was_more():
    (incident,) = grouped(
        change("opened", "dead_units", 20, "info"),
        change("opened", "loss_divergence", 30),
        change("resolved", "loss_divergence", 70),
    )

    assert incident.status == "resolved"


def test_information_that_becomes_a_warning_reopens_its_incident():
    changes = [
        change("opened", "dead_units", 20, "info"),
        change("opened", "loss_divergence", 30),
        change("resolved", "loss_divergence", 70),
        change("escalated", "dead_units", 90),
    ]

    (incident,) = grouped(*changes)
    assert (incident.status, incident.closed_step) == ("open", None)
    assert timeline(*changes)[-3:] == [("reopened", 90), ("escalated", 90), ("root", 90)]


def test_severity_is_the_worst_so_far():
    (incident,) = grouped(
        change("opened", "rank_collapse", 20),
        change("opened", "loss_spike", 21, "info"),
        change("escalated", "rank_collapse", 30, "critical"),
    )

    assert incident.severity == "critical"
    assert incident.grown_step == 30


def test_acknowledged_incident_stays_acknowledged_when_an_alert_joins():
    (before,) = grouped(change("opened", "rank_collapse", 20))
    acknowledged = replace(before, status="acknowledged")

    incidents, _ = regroup([acknowledged], [change("opened", "loss_divergence", 30)])

    assert [incident.status for incident in incidents.values()] == ["acknowledged"]


def test_alert_of_an_older_server_opens_its_incident_when_it_changes():
    assert timeline(change("persisted", "rank_collapse", 40)) == [("opened", 40)]
    assert timeline(change("resolved", "rank_collapse", 40)) == []


@pytest.mark.parametrize("rule", ["peer:wandb_z_score", f"user:{'a' * 32}"])
def test_rules_that_know_no_cause_are_no_root_beside_those_that_do(rule: str):
    (incident,) = grouped(
        change("opened", rule, 100, "critical", began=100),
        change("opened", "zero_rate", 139, began=120),
    )
    (alone,) = grouped(change("opened", rule, 100, began=100))

    assert (incident.root.key.rule, incident.severity) == ("zero_rate", "critical")
    assert alone.root.key.rule == rule


@pytest.mark.parametrize("rule", ["peer:wandb_z_score", f"user:{'a' * 32}"])
def test_a_rule_that_may_hold_for_a_whole_run_does_not_gather_all_that_happens(rule: str):
    earlier, later = grouped(
        change("opened", rule, 100, began=100),
        change("opened", "loss_rise", 100 + JOIN_STEPS + 1),
    )

    assert (rules_of(earlier), rules_of(later)) == ([rule], ["loss_rise"])
