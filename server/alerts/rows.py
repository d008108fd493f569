"""The rows of `alerts` as typed values: one field a column, in the table's order."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from server.alerts.rules import Key, Severity

AlertStatus = Literal["open", "acknowledged", "resolved"]


class AlertColumns(msgspec.Struct, frozen=True):
    """An alert as it is stored.

    Attributes:
        key: text of the `Key`, of which a run has at most one unresolved alert.
        step, last_step: the steps at which it was found first and last.
        measured: the worst value; may be NaN or infinite.
        incident: id of the incident that it belongs to; None for one of an older server.
        began: the step from which its rule held without a break until the alert opened.
        advice: the JSON form of `server.alerts.rules.Advice`.
    """

    id: str
    run_id: str
    key: str
    rule: str
    severity: Severity
    title: str
    message: str
    stack: str
    site: str
    quantity: str
    first_layer: int | None
    last_layer: int | None
    step: int
    last_step: int
    measured: float | None
    predicted: float | None
    unit: str
    advice: dict[str, Any]
    status: AlertStatus
    opened_at: float
    resolved_at: float | None
    incident: str | None
    began: int


class AlertRow(AlertColumns, frozen=True):
    """A stored alert with its run's name, project and tags."""

    run_name: str
    project: str
    tags: list[str] = msgspec.field(default_factory=list)

    @property
    def finding_key(self) -> Key:
        """The key of the findings that this alert stands for."""
        return Key(self.rule, self.stack, self.site)
