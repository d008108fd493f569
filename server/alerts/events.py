"""Publish changed alerts for open pages."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from server.alerts.schemas import Alert
from server.bus import Bus
from server.events import AlertEvent, publish, publish_runs


async def publish_alerts(bus: Bus, alerts: Iterable[Alert]) -> None:
    """Publish changed alerts, then their runs, whose summaries count open alerts."""
    alerts = tuple(alerts)
    await publish(bus, [AlertEvent(alert.run_id, _packed(alert)) for alert in alerts])
    await publish_runs(bus, dict.fromkeys(alert.run_id for alert in alerts))


def _packed(alert: Alert) -> msgspec.Raw:
    # JSON text inside msgpack would be parsed a second time by every process that has pages.
    return msgspec.Raw(msgspec.msgpack.encode(alert.model_dump(mode="json")))
