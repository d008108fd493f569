"""What every endpoint and worker of one server process shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from server.bus import Bus
from server.clock import Clock
from server.database import Database
from server.metrics import Metrics
from server.probe import Probe
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class AppState:
    """Settings, connections, clock and counters of one server process."""

    settings: Settings
    database: Database
    bus: Bus
    clock: Clock
    metrics: Metrics
    probe: Probe


def app_state_of(connection: HTTPConnection) -> AppState:
    """The state of the app that serves this connection."""
    state: AppState = connection.app.state.server
    return state


State = Annotated[AppState, Depends(app_state_of)]
