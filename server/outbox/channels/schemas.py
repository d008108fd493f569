"""The JSON form of channels and routes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.outbox.message import Severity
from server.outbox.targets import TargetKind
from server.schemas import Answer, StorableText

LONGEST_WINDOW_S = 86_400.0
Name = Annotated[StorableText, Field(min_length=1, max_length=200)]
Template = Annotated[StorableText, Field(max_length=10_000)]
Secrets = Annotated[list[StorableText], Field(max_length=8)]
Loud = Literal["warning", "critical"]


class Limit(BaseModel):
    """So many messages in so many seconds; what is beyond is told in one digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    most: int = Field(ge=1, le=10_000)
    window_s: float = Field(ge=1, le=LONGEST_WINDOW_S)


class Channel(Answer):
    """Where messages go; its URL and secrets are never shown.

    Attributes:
        source: ``settings`` for one of EVENKEEL_WEBHOOKS, which is changed there alone.
        kind: ``webhook`` takes signed JSON, ``apprise`` title and text.
        address: scheme and host of the URL.
        project: the only project whose messages it carries; null for every one.
        signed: whether its webhooks are signed.
        problem: why this server cannot deliver to it, or "".
    """

    id: str
    name: str
    source: Literal["settings", "api"]
    kind: TargetKind | None
    address: str
    project: str | None
    enabled: bool
    signed: bool
    title_template: str
    text_template: str
    limit: Limit | None
    created_at: float | None
    problem: str


class CreatedChannel(Channel):
    """A channel, with the secret that was made for it: it is shown this once."""

    secret: str | None


class ChannelList(Answer):
    """Channels: those of the settings first; `names` are what templates may name."""

    channels: list[Channel]
    template_names: list[str]
    default_title: str
    default_text: str


class ChannelRequest(BaseModel):
    """Body of ``POST /channels``."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    url: Annotated[StorableText, Field(min_length=1, max_length=4096)]
    project: Name | None = None
    secrets: Secrets = Field(default_factory=list)
    generate_secret: bool = False
    enabled: bool = True
    title_template: Template = ""
    text_template: Template = ""
    limit: Limit | None = None


class ChannelChange(BaseModel):
    """Body of ``PATCH /channels/{id}``: what is absent stays as it is, its secrets, too."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    url: Annotated[StorableText | None, Field(min_length=1, max_length=4096)] = None
    project: Name | None = None
    secrets: Secrets | None = None
    generate_secret: bool = False
    enabled: bool | None = None
    title_template: Template | None = None
    text_template: Template | None = None
    limit: Limit | None = None


class PreviewRequest(BaseModel):
    """Body of ``POST /channels/preview``."""

    model_config = ConfigDict(extra="forbid")

    title_template: Template = ""
    text_template: Template = ""


class Preview(Answer):
    """What an example reads like."""

    title: str
    text: str


class Route(Answer):
    """Which messages a channel carries; null means any, `severity` is the mildest."""

    id: str
    channel: str
    project: str | None
    tag: str | None
    severity: Severity
    created_at: float


class RouteList(Answer):
    """Routes, oldest first."""

    routes: list[Route]


class RouteRequest(BaseModel):
    """Body of ``POST /routes``."""

    model_config = ConfigDict(extra="forbid")

    channel: str = Field(pattern="^[0-9a-f]{16}$")
    project: Name | None = None
    tag: Name | None = None
    severity: Loud = "warning"
