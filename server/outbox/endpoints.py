"""``/deliveries``: what was sent to webhooks, what waits, what was given up; a test message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import HTTPConnection

from server.access.dependencies import Reader, holding
from server.access.principal import Principal
from server.app_state import State
from server.outbox import service
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryFilter
from server.outbox.rows import DeliveryStatus
from server.outbox.schemas import Delivery, DeliveryPage, TargetAnswers
from server.outbox.targets import Target

router = APIRouter(tags=["deliveries"])

ID = "^[0-9a-f]{32}$"
DeliveryId = Annotated[str, Path(pattern=ID, description="32 hexadecimal digits")]
Admin = Annotated[Principal, Depends(holding("admin"))]


def outbox_of(connection: HTTPConnection) -> Outbox:
    """The outbox of the app that serves this connection."""
    outbox: Outbox = connection.app.state.outbox
    return outbox


def targets_of(connection: HTTPConnection) -> Sequence[Target]:
    """The targets of the app that serves this connection."""
    targets: Sequence[Target] = connection.app.state.targets
    return targets


@router.get("/deliveries")
async def list_deliveries(
    caller: Reader,
    state: State,
    *,
    status: DeliveryStatus | None = None,
    run: Annotated[str | None, Query(pattern=ID)] = None,
    channel: Annotated[str | None, Query(pattern="^[0-9a-f]{16}$")] = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> DeliveryPage:
    """Messages to channels, newest first; `dead` ones were given up."""
    filters = DeliveryFilter(status, run, caller.project, channel)
    return await service.list_deliveries(state.database, filters, cursor=cursor, limit=limit)


@router.post("/deliveries/test")
async def send_test(
    _caller: Admin, state: State, targets: Annotated[Sequence[Target], Depends(targets_of)]
) -> TargetAnswers:
    """Send a test message to every target of the settings, and say what each answered."""
    return await service.send_test(targets, state.clock())


@router.post("/deliveries/{delivery_id}/retry")
async def retry_delivery(
    delivery_id: DeliveryId,
    caller: Admin,
    state: State,
    outbox: Annotated[Outbox, Depends(outbox_of)],
) -> Delivery:
    """Try a delivery again now, under the same idempotency key; 409 once it has arrived."""
    now = state.clock()
    return await service.retry(state.database, outbox, delivery_id, project=caller.project, now=now)
