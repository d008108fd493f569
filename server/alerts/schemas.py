"""The JSON form of alerts."""

from __future__ import annotations

from server.alerts.rows import AlertStatus
from server.alerts.rules import Severity
from server.schemas import Answer


class ScalingInfo(Answer):
    """DeepScaleLM's residual scales for a model's depth, and the call that applies them."""

    lam: float
    beta: float
    n_layers: int
    snippet: str


class AdviceInfo(Answer):
    """What to do."""

    text: str
    scaling: ScalingInfo | None = None


class Alert(Answer):
    """One alert: what a rule found, where, and what became of it."""

    id: str
    run_id: str
    run_name: str
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
    advice: AdviceInfo
    status: AlertStatus
    opened_at: float
    incident: str | None


class AlertPage(Answer):
    """Alerts, newest first."""

    alerts: list[Alert]
    next_cursor: str | None
