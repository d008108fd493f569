"""``/channels`` and ``/routes``: where messages go, and which."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.requests import HTTPConnection

from server.access.dependencies import Reader, holding
from server.access.principal import Principal
from server.app_state import State
from server.outbox.channels import service
from server.outbox.channels.schemas import (
    ChannelChange,
    ChannelList,
    ChannelRequest,
    CreatedChannel,
    Preview,
    PreviewRequest,
    Route,
    RouteList,
    RouteRequest,
)
from server.outbox.channels.service import Channels
from server.outbox.schemas import TargetAnswer

router = APIRouter(tags=["channels"])

ChannelId = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="16 hexadecimal digits")]
RouteId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits")]
Admin = Annotated[Principal, Depends(holding("admin"))]


def _channels(connection: HTTPConnection, caller: Principal, state: State) -> Channels:
    return Channels(
        state.database,
        connection.app.state.targets,
        project=caller.project,
        signed=bool(state.settings.webhook_secrets),
    )


def readable(connection: HTTPConnection, caller: Reader, state: State) -> Channels:
    """What a reader may see."""
    return _channels(connection, caller, state)


def changeable(connection: HTTPConnection, caller: Admin, state: State) -> Channels:
    """What an admin may change."""
    return _channels(connection, caller, state)


Readable = Annotated[Channels, Depends(readable)]
Changeable = Annotated[Channels, Depends(changeable)]


@router.get("/channels")
async def list_channels(channels: Readable) -> ChannelList:
    """Channels, those of the settings first; URLs and secrets are not among it."""
    return await channels.list()


@router.post("/channels", status_code=201)
async def create_channel(
    request: ChannelRequest, channels: Changeable, state: State
) -> CreatedChannel:
    """Store a channel; a secret that is made for it is shown in this answer alone."""
    return await channels.create(request, state.clock())


@router.post("/channels/preview")
async def preview_templates(request: PreviewRequest, _caller: Reader) -> Preview:
    """Show an example in these templates."""
    return service.preview(request)


@router.patch("/channels/{channel_id}")
async def change_channel(
    channel_id: ChannelId, request: ChannelChange, channels: Changeable
) -> CreatedChannel:
    """Change a channel; what is absent stays as it is."""
    return await channels.change(channel_id, request)


@router.delete("/channels/{channel_id}", status_code=204)
async def delete_channel(channel_id: ChannelId, channels: Changeable, state: State) -> None:
    """Delete a channel with its routes; what waits for it is listed as dead."""
    await channels.delete(channel_id, state.clock())


@router.post("/channels/{channel_id}/test")
async def test_channel(channel_id: ChannelId, channels: Changeable, state: State) -> TargetAnswer:
    """Send a test message, and say what the receiver answered."""
    return await channels.test(channel_id, state.clock())


@router.get("/routes")
async def list_routes(channels: Readable) -> RouteList:
    """Routes, oldest first."""
    return await channels.list_routes()


@router.post("/routes", status_code=201)
async def add_route(request: RouteRequest, channels: Changeable, state: State) -> Route:
    """Lead messages to a channel: one that has routes carries what one of them matches."""
    return await channels.add_route(request, state.clock())


@router.delete("/routes/{route_id}", status_code=204)
async def delete_route(route_id: RouteId, channels: Changeable) -> None:
    """Delete a route."""
    await channels.delete_route(route_id)
