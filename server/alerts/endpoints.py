"""``/alerts``: list and acknowledge."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from server.access.dependencies import Reader, holding
from server.access.principal import Principal
from server.alerts import news, service
from server.alerts.repository import AlertFilter
from server.alerts.schemas import Alert, AlertPage, AlertStatus
from server.parts import Serving

router = APIRouter(tags=["alerts"])

ID = "^[0-9a-f]{32}$"
AlertId = Annotated[str, Path(pattern=ID, description="32 hexadecimal digits")]
Editor = Annotated[Principal, Depends(holding("admin"))]


@router.get("/alerts")
async def list_alerts(
    caller: Reader,
    parts: Serving,
    *,
    run: Annotated[str | None, Query(pattern=ID)] = None,
    status: AlertStatus | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AlertPage:
    """Alerts, newest first."""
    wanted = AlertFilter(run, status, caller.project)
    return await service.list_alerts(parts.database, wanted, cursor=cursor, limit=limit)


@router.post("/alerts/{alert_id}/acknowledge")
async def acknowledge_alert(alert_id: AlertId, caller: Editor, parts: Serving) -> Alert:
    """Mark an alert as seen: it is shown, but no longer announced."""
    alert = await service.acknowledge(parts.database, alert_id, project=caller.project)
    await news.tell_pages(parts.bus, [alert])
    return alert
