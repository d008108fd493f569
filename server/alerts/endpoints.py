"""``/alerts``: list and acknowledge."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from server.access.dependencies import Reader, holding
from server.access.principal import Principal
from server.alerts import service
from server.alerts.events import publish_alerts
from server.alerts.repository import AlertFilter
from server.alerts.rows import AlertStatus
from server.alerts.schemas import Alert, AlertPage
from server.app_state import State

router = APIRouter(tags=["alerts"])

ID = "^[0-9a-f]{32}$"
AlertId = Annotated[str, Path(pattern=ID, description="32 hexadecimal digits")]
Editor = Annotated[Principal, Depends(holding("admin"))]


@router.get("/alerts")
async def list_alerts(
    caller: Reader,
    state: State,
    *,
    run: Annotated[str | None, Query(pattern=ID)] = None,
    status: AlertStatus | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AlertPage:
    """Alerts, newest first."""
    filters = AlertFilter(run, status, caller.project)
    return await service.list_alerts(state.database, filters, cursor=cursor, limit=limit)


@router.post("/alerts/{alert_id}/acknowledge")
async def acknowledge_alert(alert_id: AlertId, caller: Editor, state: State) -> Alert:
    """Mark an alert as acknowledged: it is shown, but no longer notified."""
    alert = await service.acknowledge(state.database, alert_id, project=caller.project)
    await publish_alerts(state.bus, [alert])
    return alert
