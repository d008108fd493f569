"""When an incident is worth a message: from what webhooks know, not from what just happened."""

from __future__ import annotations

import msgspec
import pytest

from server.alerts.incidents import serializers
from server.alerts.incidents.messages import due, loudness, message_of
from server.alerts.incidents.rows import IncidentRow, ListedIncident, SilenceRow
from server.alerts.rows import AlertRow
from server.outbox.templates import NAMES

RUN = "a" * 32


def incident(status: str = "open", notified: str = "") -> IncidentRow:
    return IncidentRow(
        id="b" * 32, run_id=RUN, domain="training", status=status, severity="warning",
        notified=notified, root="c" * 32, grown_step=20, closed_step=None, note="", opened_at=1.0,
        resolved_at=None,
    )  # fmt: skip


def alert(**changes: object) -> AlertRow:
    row = AlertRow(
        id="c" * 32, run_id=RUN, key="rank_collapse|decoder|stream", rule="rank_collapse",
        severity="warning", title="", message="", stack="decoder", site="stream", quantity="",
        first_layer=None, last_layer=None, step=20, last_step=20, measured=None, predicted=None,
        unit="", advice={"text": ""}, status="open", opened_at=1.0, resolved_at=None,
        incident="b" * 32, began=16, run_name="run", project="demo", tags=["nightly"],
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


def silence(**changes: object) -> SilenceRow:
    row = SilenceRow("d" * 32, None, None, None, note="", created_at=0.0, until=9.0)
    return msgspec.structs.replace(row, **changes)


@pytest.mark.parametrize(
    ("status", "notified", "loud", "kind"),
    [
        ("open", "", "warning", "incident.opened"),
        ("open", "", "info", None),
        ("open", "warning", "warning", None),
        ("open", "warning", "critical", "incident.escalated"),
        ("open", "critical", "warning", None),
        ("acknowledged", "", "critical", None),
        ("acknowledged", "warning", "critical", None),
        ("resolved", "warning", "info", "incident.resolved"),
        ("resolved", "", "info", None),
    ],
)
def test_message_is_due_when_webhooks_know_less(status, notified, loud, kind):
    assert due(incident(status, notified), loud) == kind


@pytest.mark.parametrize("changes", [{"status": "acknowledged"}, {"status": "resolved"}])
def test_alert_that_is_looked_at_or_over_is_quiet(changes):
    assert loudness([alert(**changes)], []) == "info"


def test_worst_of_the_alerts_counts():
    alerts = [alert(severity="info"), alert(severity="critical"), alert()]

    assert loudness(alerts, []) == "critical"


@pytest.mark.parametrize(
    ("changes", "loud"),
    [
        ({}, "info"),
        ({"run_id": RUN}, "info"),
        ({"run_id": "f" * 32}, "warning"),
        ({"rule": "rank_collapse"}, "info"),
        ({"rule": "nonfinite"}, "warning"),
        ({"rule": "rank_collapse", "run_id": "f" * 32}, "warning"),
        ({"project": "demo"}, "info"),
        ({"project": "private"}, "warning"),
        ({"tag": "nightly"}, "info"),
        ({"tag": "night"}, "warning"),
        ({"tag": "nightly", "rule": "nonfinite"}, "warning"),
        ({"incident": "b" * 32}, "info"),
        ({"incident": "f" * 32}, "warning"),
    ],
)
def test_silence_covers_what_it_names(changes, loud):
    assert loudness([alert()], [silence(**changes)]) == loud


def test_silence_of_one_rule_leaves_the_others_loud():
    alerts = [alert(severity="critical"), alert(rule="loss_divergence")]

    assert loudness(alerts, [silence(rule="rank_collapse")]) == "warning"


def test_message_links_to_the_step_and_the_layers_and_fills_templates():
    rows = [alert(first_layer=7, last_layer=24, title="Rank collapse", message="From layer 7 on.")]
    row = ListedIncident(**msgspec.structs.asdict(incident()), run_name="post-ln", project="demo")
    told = message_of(
        serializers.incident(row, rows, []),
        "incident.opened",
        "demo",
        tags=["nightly"],
        public_url="https://keel.example",
    )

    link = f"https://keel.example/runs/{RUN}?step=20&stack=decoder&layers=7-24"
    assert told.text.endswith(f"\n\n{link}")
    assert (told.reach, told.tags, told.values["layers"]) == ("warning", ("nightly",), "7–24")
    assert set(told.values) == set(NAMES)
