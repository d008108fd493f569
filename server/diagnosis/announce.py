"""Tell pages and delivery workers of changed alerts, once the change is committed."""

from __future__ import annotations

from server.alerts.events import publish_alerts
from server.alerts.service import Diagnosis
from server.bus import Bus
from server.outbox.outbox import Outbox


async def announce(bus: Bus, outbox: Outbox, diagnosis: Diagnosis) -> None:
    """Publish every change for pages, and have what webhooks receive of it sent now."""
    if diagnosis.changed:
        await publish_alerts(bus, diagnosis.changed)
        outbox.wake()
