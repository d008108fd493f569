"""Which alerts of a run belong together, and which of them is the root. Pure.

An alert joins the incident that is open, or was until shortly before; else it opens one. The order
in which alerts arrive within a step changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from server.alerts import lifecycle
from server.alerts.incidents.causes import CAUSAL_ORDER, Domain, cause_of, domain_of
from server.alerts.rows import AlertStatus
from server.alerts.rules import PEER, USER, Key, Severity
from server.alerts.rules.finding import SEVERITIES

# Optimizer steps. Most rules need five samples in a row, and the default budget takes one every 24
# to 34 steps: what a fault does is announced within about 170 steps of its first sign.
JOIN_STEPS = 200
# Signs that begin within two such samples of each other began together, for all that can be known.
ROOT_STEPS = 50
# Of the first steps alone: such an alert is never resolved by itself, and says nothing of others.
JUDGED_ONCE = frozenset({"departs_from_prediction"})
_NAMESPACE = uuid.UUID("6f1c1f6e-8f0a-4f6b-9a53-2f0f9a7d7c11")

ChangeKind = Literal["opened", "joined", "escalated", "worsened", "cleared", "root", "resolved",
                     "reopened", "acknowledged", "note", "silenced", "unsilenced"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AlertChange:
    """A transition of one alert; `severity` and `began` are the alert's."""

    alert: str
    key: Key
    kind: lifecycle.Kind
    step: int
    severity: Severity = "info"
    began: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """An alert of an incident."""

    alert: str
    key: Key
    severity: Severity
    began: int
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as grouping sees it.

    Attributes:
        evidence: its alerts, in the order in which they joined.
        grown_step: the newest step at which an alert joined or became more severe.
        closed_step: where all was clear; None while it is not resolved, or was by hand.
    """

    id: str
    domain: Domain
    status: AlertStatus
    evidence: tuple[Evidence, ...]
    grown_step: int
    closed_step: int | None = None

    @property
    def severity(self) -> Severity:
        """The worst of its alerts so far."""
        return max((e.severity for e in self.evidence), key=SEVERITIES.index)

    @property
    def root(self) -> Evidence:
        """The alert nearest to the cause.

        Among the signs that began first it is the first in causal order; of one place the
        earliest. Weak signs explain nothing beside stronger ones.
        """
        weakness = min(map(_weakness, self.evidence))
        signs = [e for e in self.evidence if _weakness(e) == weakness]
        first = min(e.began for e in signs)
        return min((e for e in signs if e.began <= first + ROOT_STEPS), key=_from_cause)


@dataclass(frozen=True, slots=True)
class Change:
    """A line of an incident's timeline."""

    incident: str
    kind: ChangeKind
    step: int
    alert: str


Incidents = Mapping[str, Incident]


def regroup(
    incidents: Iterable[Incident], changes: Sequence[AlertChange]
) -> tuple[dict[str, Incident], list[Change]]:
    """The incidents of a run, by id, after changes of its alerts in ascending step."""
    after = {incident.id: incident for incident in incidents}
    timeline: list[Change] = []
    for step, of_step in groupby(changes, key=lambda change: change.step):
        before = dict(after)
        for change in sorted(of_step, key=_in_step):
            timeline += _apply(after, change)
        timeline += _closed(before, after, step)
    return after, timeline


def _weakness(evidence: Evidence) -> int:
    """0 for a rule that judges every step, 2 for information and for other tools' rules.

    Between them a departure from theory's curve at the start: narrow models that are well may show
    one, and a fault that follows has a remedy of its own. So with users' own rules, which may hold
    for a whole run, and know no cause.
    """
    rule = evidence.key.rule
    if evidence.severity == "info" or rule.startswith(PEER):
        return 2
    return int(rule in JUDGED_ONCE or rule.startswith(USER))


def _from_cause(evidence: Evidence) -> tuple[int, int, int, Key]:
    place = CAUSAL_ORDER.index(cause_of(evidence.key))
    return place, evidence.began, -SEVERITIES.index(evidence.severity), evidence.key


def _in_step(change: AlertChange) -> tuple[bool, bool, int, Key]:
    # What opens comes first, so that an incident that also clears at this step stays open.
    return change.kind == "resolved", change.kind != "opened", change.began, change.key


def _apply(incidents: dict[str, Incident], change: AlertChange) -> list[Change]:
    incident = _owner(incidents, change.alert)
    if change.kind == "resolved":
        return [] if incident is None else _clear(incidents, incident, change)
    if incident is None:
        return _add(incidents, change)
    return _update(incidents, incident, change)


def _owner(incidents: Incidents, alert: str) -> Incident | None:
    return next((i for i in incidents.values() if any(e.alert == alert for e in i.evidence)), None)


def _add(incidents: dict[str, Incident], change: AlertChange) -> list[Change]:
    evidence = Evidence(change.alert, change.key, change.severity, change.began)
    taking = [incident for incident in incidents.values() if takes(incident, change)]
    if not taking:
        incident = _opened(evidence, change.step)
        incidents[incident.id] = incident
        return [Change(incident.id, "opened", change.step, change.alert)]
    before = max(taking, key=lambda incident: (incident.grown_step, incident.id))
    reopens = before.status == "resolved"
    incident = replace(
        before,
        evidence=(*before.evidence, evidence),
        grown_step=max(before.grown_step, change.step),
        status="open" if reopens else before.status,
        closed_step=None,
    )
    incidents[incident.id] = incident
    kinds: list[ChangeKind] = [*(["reopened"] * reopens), "joined"]  # type: ignore[list-item]
    changes = [Change(incident.id, kind, change.step, change.alert) for kind in kinds]
    return changes + _new_root(before, incident, change.step)


def _opened(evidence: Evidence, step: int) -> Incident:
    # The same alert opens the same incident, however often its step is judged.
    incident_id = uuid.uuid5(_NAMESPACE, evidence.alert).hex
    return Incident(incident_id, domain_of(evidence.key), "open", (evidence,), step)


def takes(incident: Incident, change: AlertChange) -> bool:
    """Whether an alert that opens belongs to this incident."""
    if incident.domain != domain_of(change.key):
        return False
    if incident.status != "resolved" and any(map(_lasts, incident.evidence)):
        return True
    if incident.status == "resolved" and incident.closed_step is None:
        return False  # by hand: what comes now is news
    last = incident.grown_step if incident.closed_step is None else incident.closed_step
    return 0 <= change.step - last <= JOIN_STEPS


def _lasts(evidence: Evidence) -> bool:
    """Whether an alert says of every step that something is wrong.

    Information may hold for a whole healthy run, and would gather all that ever happens in it.
    """
    return evidence.holds and _weakness(evidence) == 0


def _update(
    incidents: dict[str, Incident], incident: Incident, change: AlertChange
) -> list[Change]:
    if change.kind == "persisted":
        return []
    after = _with(incident, change.alert, severity=change.severity)
    kinds: list[ChangeKind] = ["worsened"]
    if change.kind == "escalated":
        kinds = [*_reopening(after), "escalated"]
        grown_step = max(incident.grown_step, change.step)
        status = "open" if "reopened" in kinds else incident.status
        closed_step = None if "reopened" in kinds else incident.closed_step
        after = replace(after, grown_step=grown_step, status=status, closed_step=closed_step)
    incidents[incident.id] = after
    lines = [Change(incident.id, kind, change.step, change.alert) for kind in kinds]
    return lines + _new_root(incident, after, change.step)


def _reopening(incident: Incident) -> list[ChangeKind]:
    """Whether information that its incident left behind has become more than that."""
    return ["reopened"] if incident.status == "resolved" and _holds(incident) else []


def _clear(incidents: dict[str, Incident], incident: Incident, change: AlertChange) -> list[Change]:
    incidents[incident.id] = _with(incident, change.alert, holds=False)
    return [Change(incident.id, "cleared", change.step, change.alert)]


def _with(incident: Incident, alert: str, **changes: object) -> Incident:
    evidence = tuple(
        replace(e, **changes) if e.alert == alert else e  # type: ignore[arg-type]
        for e in incident.evidence
    )
    return replace(incident, evidence=evidence)


def _new_root(before: Incident, after: Incident, step: int) -> list[Change]:
    if before.root.alert == after.root.alert:
        return []
    return [Change(after.id, "root", step, after.root.alert)]


def _closed(before: Incidents, after: dict[str, Incident], step: int) -> list[Change]:
    """Resolve what changed at this step and of which nothing holds any more."""
    closed = []
    for incident in list(after.values()):
        touched = before.get(incident.id) != incident
        if touched and incident.status != "resolved" and not _holds(incident):
            after[incident.id] = replace(incident, status="resolved", closed_step=step)
            closed.append(Change(incident.id, "resolved", step, incident.root.alert))
    return closed


def _holds(incident: Incident) -> bool:
    """Whether something keeps it open: information does not, beside what is more than that."""
    weighty = incident.severity == "info"
    return any(e.holds and (weighty or e.severity != "info") for e in incident.evidence)
