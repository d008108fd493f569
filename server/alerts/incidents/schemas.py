"""The JSON form of incidents and silences."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from server.alerts.incidents.causes import Cause, Domain
from server.alerts.incidents.grouping import ChangeKind
from server.alerts.rows import AlertStatus
from server.alerts.rules import Severity
from server.alerts.schemas import AdviceInfo, Alert
from server.schemas import Answer, StorableText

LONGEST_SILENCE_S = 366 * 86_400.0


class IncidentChange(Answer):
    """One line of a timeline; `step` is null for what people did."""

    at: float
    step: int | None
    kind: ChangeKind
    alert: str | None
    text: str


class Incident(Answer):
    """What one fault raised: its root in full, and every alert beneath it as evidence.

    Attributes:
        cause: where in a training step the fault lies; null for telemetry and lost contact.
        rule, title, message, advice, stack, site, first_layer, last_layer: the root's.
        first_step: from which step its first sign held.
        last_step: the newest step at which any of its alerts held.
    """

    id: str
    run_id: str
    run_name: str
    domain: Domain
    cause: Cause | None
    rule: str
    severity: Severity
    title: str
    message: str
    advice: AdviceInfo
    stack: str
    site: str
    first_layer: int | None
    last_layer: int | None
    first_step: int
    last_step: int
    status: AlertStatus
    note: str
    opened_at: float
    resolved_at: float | None
    root: str
    alerts: list[Alert]
    timeline: list[IncidentChange]


class IncidentNotice(Incident):
    """What a webhook receives: an incident, and what happened to it."""

    kind: str


class IncidentPage(Answer):
    """Incidents, newest first."""

    incidents: list[Incident]
    next_cursor: str | None


class NoteChange(BaseModel):
    """Body of ``PUT /incidents/{id}/note``."""

    model_config = ConfigDict(extra="forbid")

    note: StorableText = Field(max_length=10_000)


class SilenceRequest(BaseModel):
    """Body of ``POST /silences``; what is absent means any."""

    model_config = ConfigDict(extra="forbid")

    run: Annotated[str | None, Field(pattern="^[0-9a-f]{32}$")] = None
    rule: Annotated[StorableText | None, Field(min_length=1, max_length=64)] = None
    tag: Annotated[StorableText | None, Field(min_length=1, max_length=200)] = None
    incident: Annotated[str | None, Field(pattern="^[0-9a-f]{32}$")] = None
    seconds: float = Field(gt=0, le=LONGEST_SILENCE_S)
    note: StorableText = Field(default="", max_length=10_000)


class Silence(Answer):
    """Until when nobody is told of a run, a rule, a tag or an incident; null means any.

    Attributes:
        run_name: of the run, or of the incident's.
        incident_title: what the incident says.
    """

    id: str
    project: str | None
    run: str | None
    rule: str | None
    tag: str | None
    incident: str | None
    run_name: str | None
    incident_title: str | None
    note: str
    created_at: float
    until: float


class SilenceList(Answer):
    """Silences that are in force, the first to end first."""

    silences: list[Silence]
