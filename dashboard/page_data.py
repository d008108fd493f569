"""What pages and scripts tell each other through Dash's stores, as typed structs.

The script's side of each is declared in ``assets/js/types.d.ts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import msgspec.structs
from msgspec import Struct, field

from dashboard.api_types import StackInfo


class RunData(Struct, frozen=True):
    """A run on show: its line's colour, the stack drawn of it, and the keys of its series."""

    id: str
    name: str
    colour: str
    status: str
    stack: str
    stacks: dict[str, StackInfo]
    last_seen: float
    series: list[str] = field(default_factory=list)


class PageData(Struct, frozen=True, omit_defaults=True):
    """The page that is in place, the runs on it, and the element ids of its charts.

    `page` is runs, run, compare, alerts or settings; `charts` maps a quantity to its depth chart;
    `stack` is the one asked for, "" for each run's default.
    """

    page: str
    stack: str = ""
    charts: dict[str, str] = field(default_factory=dict)
    scalars: str = ""
    heatmaps: list[str] = field(default_factory=list)
    runs: list[RunData] = field(default_factory=list)

    @property
    def run(self) -> RunData | None:
        """The run of a run page; None on every other page."""
        return self.runs[0] if self.page == "run" else None

    def store(self) -> dict[str, Any]:
        """The form in which a `dcc.Store` holds it."""
        stored: dict[str, Any] = msgspec.to_builtins(self)
        return stored


class LiveEvent(Struct, frozen=True):
    """The kind of the latest live event, and how many there were: equal data fires no callback."""

    kind: str = ""
    count: int = 0

    def store(self) -> dict[str, Any]:
        """The form in which a `dcc.Store` holds it."""
        return msgspec.structs.asdict(self)


class StepOnShow(Struct, frozen=True):
    """The step and stack that the player shows, the tab that is open, and the block it is about."""

    step: int
    stack: str = ""
    tab: str = ""
    block: int | None = None


def read_page(stored: Mapping[str, Any]) -> PageData:
    """The page data of a store."""
    return msgspec.convert(stored, PageData)


def read_event(stored: Mapping[str, Any] | None) -> LiveEvent:
    """The live event of a store; before the first, one without a kind."""
    return msgspec.convert(stored or {}, LiveEvent)


def read_step(stored: Mapping[str, Any] | None) -> StepOnShow | None:
    """The step on show; None before the player has one."""
    return None if stored is None else msgspec.convert(stored, StepOnShow)
