"""What the server's processes tell each other for open pages, over the bus."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog

from server.bus import Bus
from server.bus.protocol import PAGES

log = structlog.get_logger(__name__)


class FrameNews(msgspec.Struct, frozen=True, tag="frame"):
    """The newest frame of a commit, and how many lay before it in the same commit."""

    run: str
    step: int
    time: float
    layout: str
    values: bytes
    skipped: int


class RunNews(msgspec.Struct, frozen=True, tag="run"):
    """Something in a run's summary changed."""

    run: str


class PredictionNews(msgspec.Struct, frozen=True, tag="prediction"):
    """The prediction of a revision is there, or has failed."""

    run: str
    step: int


class AlertNews(msgspec.Struct, frozen=True, tag="alert"):
    """An alert was opened or has changed; `alert` is its JSON form."""

    run: str
    alert: msgspec.Raw


News = FrameNews | RunNews | PredictionNews | AlertNews

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(News)


def read(body: bytes) -> News:
    """The news in a bus message."""
    news: News = _decoder.decode(body)
    return news


async def announce(bus: Bus, news: Iterable[News]) -> None:
    """Tell open pages, best effort: what they miss they read with the next request."""
    try:
        for one in news:
            await bus.publish(PAGES, _encoder.encode(one))
    except OSError as error:
        log.warning("pages_not_told", error=repr(error))


async def announce_runs(bus: Bus, run_ids: Iterable[str]) -> None:
    """Tell open pages that these runs' summaries changed."""
    await announce(bus, [RunNews(run_id) for run_id in run_ids])
