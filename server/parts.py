"""What one server process is made of, handed to endpoints and workers alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from server.alerts.delivery import Delivery
from server.bus import Bus
from server.clock import Clock
from server.database import Database
from server.metrics import Metrics
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one process."""

    settings: Settings
    database: Database
    bus: Bus
    clock: Clock
    metrics: Metrics
    delivery: Delivery


def parts_of(connection: HTTPConnection) -> Parts:
    """The parts of the app that serves this connection."""
    parts: Parts = connection.app.state.parts
    return parts


Serving = Annotated[Parts, Depends(parts_of)]
