"""Send changed alerts to pages and webhooks, once the change is committed."""

from __future__ import annotations

from server.alerts.events import publish_alerts
from server.alerts.notifier import Notifier
from server.alerts.service import Diagnosis
from server.bus import Bus


async def announce(bus: Bus, notifier: Notifier, diagnosis: Diagnosis) -> None:
    """Publish every change for pages, and notify webhooks of those that are worth it."""
    if diagnosis.changed:
        await publish_alerts(bus, diagnosis.changed)
    notifier.notify(diagnosis.to_notify)
