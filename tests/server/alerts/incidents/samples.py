"""Changes of alerts, as short as a test of grouping needs them."""

from __future__ import annotations

from server.alerts import lifecycle
from server.alerts.incidents.grouping import AlertChange
from server.alerts.rules import Key, Severity


def key_of(rule: str) -> Key:
    """The key of a rule's alert; rules on the loss and on telemetry name no stack."""
    sites = {"loss_spike": "loss", "loss_divergence": "loss", "agent_health": "spool"}
    site = sites.get(rule, "stream")
    return Key(rule, "" if rule in sites else "decoder", site)


def change(
    kind: lifecycle.Kind,
    rule: str,
    step: int,
    severity: Severity = "warning",
    *,
    began: int | None = None,
    nth: int = 0,
) -> AlertChange:
    """A transition of a rule's alert; `nth` tells its alerts apart."""
    began = step if began is None else began
    return AlertChange(f"{rule} {nth}", key_of(rule), kind, step, severity, began)
