"""Alerts as messages to webhooks."""

from __future__ import annotations

from server.alerts.schemas import Alert
from server.outbox.message import Message


def message_of(alert: Alert, project: str) -> Message:
    """The message that an alert opened or became more severe."""
    return Message(
        kind="alert",
        run_id=alert.run_id,
        project=project,
        severity=alert.severity,
        title=f"{alert.run_name}: {alert.title}",
        text=f"{alert.message}\n\n{alert.advice.text}",
        body=alert.model_dump_json(),
    )
