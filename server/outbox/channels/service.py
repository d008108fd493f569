"""The use cases of channels and routes.

A caller whose key is of one project sees and changes that project's channels alone, and those of
the settings not at all.
"""

from __future__ import annotations

import base64
import secrets as random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from server.database import Database
from server.errors import Conflict, InvalidField, NotFound, StartError
from server.outbox import templates
from server.outbox.channels.repository import ChannelRepository, RouteRepository
from server.outbox.channels.rows import ChannelRow, RouteRow
from server.outbox.channels.schemas import (
    Channel,
    ChannelChange,
    ChannelList,
    ChannelRequest,
    CreatedChannel,
    Limit,
    Preview,
    PreviewRequest,
    Route,
    RouteList,
    RouteRequest,
)
from server.outbox.channels.targets import checked_target, target_of_channel
from server.outbox.message import sample_message
from server.outbox.repository import DeliveryRepository
from server.outbox.schemas import TargetAnswer
from server.outbox.signing import PREFIX
from server.outbox.targets import Target, redacted
from server.outbox.trial import answer_of

DELETED = "its channel was deleted"


class Channels:
    """What one caller may do with channels and routes."""

    def __init__(
        self, database: Database, fixed: Sequence[Target], *, project: str | None, signed: bool
    ) -> None:
        """`fixed` are the targets of the settings, `signed` whether the settings sign them."""
        self._database = database
        self._fixed = [] if project is not None else list(fixed)
        self._project = project
        self._signed = signed

    async def list(self) -> ChannelList:
        """Every channel that the caller may see."""
        async with self._database.reading() as session:
            rows = await ChannelRepository(session).all()
        shown = [await _channel(row) for row in rows if self._sees(row)]
        return ChannelList(
            channels=[*(self._of_settings(target) for target in self._fixed), *shown],
            template_names=list(templates.NAMES),
            default_title=templates.DEFAULT_TITLE,
            default_text=templates.DEFAULT_TEXT,
        )

    async def create(self, request: ChannelRequest, now: float) -> CreatedChannel:
        """Store a channel.

        Raises:
            InvalidField: if its URL, a secret or a template cannot be used.
        """
        self._require_own_project(request.project)
        signing, made = _with_generated(request.secrets, request.generate_secret)
        await _require_usable(request.url, signing)
        _require_templates(request.title_template, request.text_template)
        row = ChannelRow(
            id=random.token_hex(8),
            project=request.project or self._project,
            name=request.name,
            url=request.url,
            secrets=signing,
            enabled=request.enabled,
            title_template=request.title_template,
            text_template=request.text_template,
            most=request.limit.most if request.limit else None,
            window_s=request.limit.window_s if request.limit else 0.0,
            created_at=now,
        )
        async with self._database.writing() as session:
            await ChannelRepository(session).add(row)
        return await _created(row, made)

    async def change(self, channel_id: str, request: ChannelChange) -> CreatedChannel:
        """Change a channel; what waits for it is sent to its new URL.

        Raises:
            NotFound: if the caller sees no such channel.
            Conflict: if it is one of the settings.
            InvalidField: as `create`.
        """
        given = request.model_fields_set
        if "project" in given:
            self._require_own_project(request.project)
        async with self._database.reading() as session:
            row = await self._stored(ChannelRepository(session), channel_id)
        before = row.secrets if request.secrets is None else request.secrets
        signing, made = _with_generated(before, request.generate_secret)
        values = {**_changed_columns(request), "secrets": signing}
        if "project" in given:  # a key of one project cannot widen its channels
            values["project"] = request.project or self._project
        row = msgspec.structs.replace(row, **values)
        await _require_usable(row.url, row.secrets)
        _require_templates(row.title_template, row.text_template)
        async with self._database.writing() as session:
            await ChannelRepository(session).change(channel_id, **values)
        return await _created(row, made)

    async def delete(self, channel_id: str, now: float) -> None:
        """Delete a channel with its routes; what waits for it becomes dead.

        Raises:
            NotFound, Conflict: as `change`.
        """
        async with self._database.writing() as session:
            repository = ChannelRepository(session)
            await self._stored(repository, channel_id)
            await repository.remove(channel_id)
            await DeliveryRepository(session).drop(channel_id, DELETED, now)

    async def test(self, channel_id: str, now: float) -> TargetAnswer:
        """Send a test message in the channel's words, and say what was answered.

        Raises:
            NotFound: if the caller sees no such channel.
            InvalidField: if this server cannot deliver to it.
        """
        for target in self._fixed:
            if target.id == channel_id:
                return await answer_of(target, sample_message(now), now)
        async with self._database.reading() as session:
            row = await self._stored(ChannelRepository(session), channel_id)
        target = checked_target(row.url, row.secrets)
        try:
            message = templates.render(
                sample_message(now), title=row.title_template, text=row.text_template
            )
            answer = await answer_of(target, message, now)
        finally:
            await target.close()
        return answer.model_copy(update={"target": row.name})

    async def list_routes(self) -> RouteList:
        """The routes of the channels that the caller sees."""
        async with self._database.reading() as session:
            rows = await RouteRepository(session).all()
            visible = {row.id for row in await ChannelRepository(session).all() if self._sees(row)}
        visible |= {target.id for target in self._fixed}
        return RouteList(routes=[_route(row) for row in rows if row.channel in visible])

    async def add_route(self, request: RouteRequest, now: float) -> Route:
        """Lead messages to a channel; the first route of a channel is its only one then.

        Raises:
            NotFound: if the caller sees no such channel.
        """
        self._require_own_project(request.project)
        row = RouteRow(
            id=uuid.uuid4().hex,
            channel=request.channel,
            project=request.project or self._project,
            tag=request.tag,
            severity=request.severity,
            created_at=now,
        )
        async with self._database.writing() as session:
            if request.channel not in {target.id for target in self._fixed}:
                await self._stored(ChannelRepository(session), request.channel)
            await RouteRepository(session).add(row)
        return _route(row)

    async def delete_route(self, route_id: str) -> None:
        """Delete a route.

        Raises:
            NotFound: if the caller sees no such route.
        """
        visible = {route.id for route in (await self.list_routes()).routes}
        if route_id not in visible:
            raise NotFound(
                f"there is no route {route_id!r}",
                field="route_id",
                fix="list routes with GET /api/v1/routes",
            )
        async with self._database.writing() as session:
            await RouteRepository(session).remove(route_id)

    async def _stored(self, repository: ChannelRepository, channel_id: str) -> ChannelRow:
        if any(target.id == channel_id for target in self._fixed):
            raise Conflict(
                "this channel is one of the server's settings",
                field="channel_id",
                fix="change EVENKEEL_WEBHOOKS and restart the server",
            )
        row = await repository.get(channel_id)
        if row is None or not self._sees(row):
            raise NotFound(
                f"there is no channel {channel_id!r}",
                field="channel_id",
                fix="list channels with GET /api/v1/channels",
            )
        return row

    def _sees(self, row: ChannelRow) -> bool:
        return self._project in (None, row.project)

    def _require_own_project(self, project: str | None) -> None:
        if self._project is not None and project not in (None, self._project):
            raise InvalidField(
                f"the key is for project {self._project!r}",
                field="project",
                fix="leave it out, or use a key for every project",
            )

    def _of_settings(self, target: Target) -> Channel:
        return Channel(
            id=target.id,
            name=target.name,
            source="settings",
            kind=target.kind,
            address=target.name,
            project=None,
            enabled=True,
            signed=self._signed and target.kind == "webhook",
            title_template="",
            text_template="",
            limit=None,
            created_at=None,
            problem="",
        )


def preview(request: PreviewRequest) -> Preview:
    """What an example reads like in these templates.

    Raises:
        InvalidField: if a template names what there is not.
    """
    _require_templates(request.title_template, request.text_template)
    title = request.title_template or templates.DEFAULT_TITLE
    text = request.text_template or templates.DEFAULT_TEXT
    return Preview(
        title=templates.fill(title, templates.EXAMPLES),
        text=templates.fill(text, templates.EXAMPLES),
    )


def _with_generated(secrets: Sequence[str], generate: bool) -> tuple[list[str], str | None]:
    """The secrets, with a new one in front where asked for; and that one."""
    if not generate:
        return list(secrets), None
    made = PREFIX + base64.b64encode(random.token_bytes(32)).decode()
    # The former ones go on signing, so that receivers can change over.
    return [made, *secrets], made


async def _require_usable(url: str, secrets: Sequence[str]) -> None:
    await checked_target(url, secrets).close()


def _require_templates(title: str, text: str) -> None:
    templates.check(title, "title_template")
    templates.check(text, "text_template")


def _changed_columns(request: ChannelChange) -> Mapping[str, Any]:
    values: dict[str, Any] = {
        name: getattr(request, name)
        for name in ("name", "url", "enabled", "title_template", "text_template")
        if getattr(request, name) is not None
    }
    if "limit" in request.model_fields_set:
        values["most"] = request.limit.most if request.limit else None
        values["window_s"] = request.limit.window_s if request.limit else 0.0
    return values


async def _created(row: ChannelRow, made: str | None) -> CreatedChannel:
    channel = await _channel(row)
    return CreatedChannel(**channel.model_dump(exclude={"limit"}), limit=channel.limit, secret=made)


async def _channel(row: ChannelRow) -> Channel:
    target, problem = None, ""
    try:
        target = target_of_channel(row.url, row.secrets)
        await target.close()
    except StartError as error:
        problem = str(error)
    limit = row.rate_limit
    return Channel(
        id=row.id,
        name=row.name,
        source="api",
        kind=target.kind if target else None,
        address=target.name if target else redacted(row.url),
        project=row.project,
        enabled=row.enabled,
        signed=bool(row.secrets) and target is not None and target.kind == "webhook",
        title_template=row.title_template,
        text_template=row.text_template,
        limit=Limit(most=limit.most, window_s=limit.window_s) if limit else None,
        created_at=row.created_at,
        problem=problem,
    )


def _route(row: RouteRow) -> Route:
    return Route(**{name: getattr(row, name) for name in Route.model_fields})
