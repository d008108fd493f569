"""Events that the server's processes publish for open pages, over the bus."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog

from server.bus import Bus
from server.bus.protocol import PAGES

log = structlog.get_logger(__name__)


class FrameEvent(msgspec.Struct, frozen=True, tag="frame"):
    """The newest frame of a commit.

    Attributes:
        values: little-endian float32, one per value of the layout, as in `wire.Frame`.
        skipped: older frames of the same commit, which no event carries.
    """

    run: str
    step: int
    time: float
    layout: str
    values: bytes
    skipped: int


class ScalarsEvent(msgspec.Struct, frozen=True, tag="scalars"):
    """Scalars of steps that were not sampled are new, from step `first` on."""

    run: str
    first: int


class RunEvent(msgspec.Struct, frozen=True, tag="run"):
    """A change in a run's summary."""

    run: str


class PredictionEvent(msgspec.Struct, frozen=True, tag="prediction"):
    """The prediction for the spec of `step` is computed, or has failed."""

    run: str
    step: int


class AlertEvent(msgspec.Struct, frozen=True, tag="alert"):
    """An alert was opened or has changed; `alert` is its JSON form in msgpack."""

    run: str
    alert: msgspec.Raw


Event = FrameEvent | ScalarsEvent | RunEvent | PredictionEvent | AlertEvent

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event)
_unknown_kinds: set[str] = set()
MOST_UNKNOWN_KINDS = 100
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(body: bytes) -> Event | None:
    """The event in a published message; None for one of a version that knows other events.

    Processes of several versions share a bus while they are replaced one by one: what one of them
    cannot read delays a page until it reads anew, and must not end its connection.
    """
    try:
        event: Event = _decoder.decode(body)
    except UNREADABLE as error:
        _note_unknown(_kind_of(body), error)
        return None
    return event


def _kind_of(body: bytes) -> str:
    try:
        return str(msgspec.msgpack.decode(body)["type"])[:64]
    except (*UNREADABLE, TypeError, KeyError):
        return ""


def _note_unknown(kind: str, error: Exception) -> None:
    """Log each kind once: a live run publishes its events many times a second."""
    if kind in _unknown_kinds or len(_unknown_kinds) >= MOST_UNKNOWN_KINDS:
        return
    _unknown_kinds.add(kind)
    log.warning("unknown_event_skipped", kind=kind, error=str(error))


async def publish(bus: Bus, events: Iterable[Event]) -> None:
    """Publish for open pages, best effort.

    A bus that is away only delays a page: it reads everything anew when it reconnects.
    """
    try:
        for event in events:
            await bus.publish(PAGES, _encoder.encode(event))
    except OSError as error:
        log.warning("events_not_published", error=repr(error))


async def publish_runs(bus: Bus, run_ids: Iterable[str]) -> None:
    """Publish that the summaries of these runs changed."""
    await publish(bus, [RunEvent(run_id) for run_id in run_ids])
