"""The rows of `channels` and `routes`: one field a column, in the tables' order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from server.outbox.message import MILDEST_FIRST, Message, Severity


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many messages in so many seconds; what is beyond waits for a digest."""

    most: int
    window_s: float


class ChannelRow(msgspec.Struct, frozen=True):
    """A channel as it is stored.

    Attributes:
        id: also the id of its delivery target: what waits follows a change of the URL.
        project: the only project whose messages it carries; None for every one.
        url: may hold a token.
        secrets: sign its webhooks.
        title_template, text_template: ``""`` for the message's own words.
        most, window_s: see `RateLimit`; `most` is None where there is no limit.
    """

    id: str
    project: str | None
    name: str
    url: str
    secrets: list[str]
    enabled: bool
    title_template: str
    text_template: str
    most: int | None
    window_s: float
    created_at: float

    @property
    def rate_limit(self) -> RateLimit | None:
        """Its limit, or None."""
        return None if self.most is None else RateLimit(self.most, self.window_s)


class RouteRow(msgspec.Struct, frozen=True):
    """Which messages a channel carries; None means any. `severity` is the mildest."""

    id: str
    channel: str
    project: str | None
    tag: str | None
    severity: Severity
    created_at: float

    def matches(self, message: Message) -> bool:
        """Whether it leads a message to its channel."""
        severity = message.reach or message.severity
        return (
            self.project in (None, message.project)
            and (self.tag is None or self.tag in message.tags)
            and MILDEST_FIRST.index(severity) >= MILDEST_FIRST.index(self.severity)
        )


def carries(routes: Iterable[RouteRow], channel: str, message: Message) -> bool:
    """Whether a channel carries a message: one without routes of its own carries every one."""
    leading = [route for route in routes if route.channel == channel]
    return not leading or any(route.matches(message) for route in leading)
