"""Alerts on their way to open pages."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from server.alerts.schemas import Alert
from server.bus import Bus
from server.live.messages import AlertNews, RunNews, announce


async def tell_pages(bus: Bus, alerts: Iterable[Alert]) -> None:
    """Announce changed alerts, and that the summaries of their runs count them anew."""
    told = tuple(alerts)
    runs = dict.fromkeys(one.run_id for one in told)
    await announce(bus, [AlertNews(one.run_id, _raw(one)) for one in told])
    await announce(bus, [RunNews(run) for run in runs])


def _raw(alert: Alert) -> msgspec.Raw:
    # One msgpack string of JSON text would need a second parse; plain msgpack values do not.
    return msgspec.Raw(msgspec.msgpack.encode(alert.model_dump(mode="json")))
