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


def decode(body: bytes) -> Event:
    """The event in a published message.

    Raises:
        msgspec.DecodeError: for a message of a version that knows other events.
    """
    event: Event = _decoder.decode(body)
    return event


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
