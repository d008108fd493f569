"""The JSON form of runs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.runs.status import Status
from server.schemas import Answer, MissingInfo, StorableText


class AlertCounts(Answer):
    """Alerts that are not resolved."""

    critical: int = 0
    warning: int = 0


class RunSummary(Answer):
    """One line of the run list."""

    id: str
    project: str
    name: str
    status: Status
    tags: list[str]
    created_at: float
    last_seen: float
    last_step: int | None
    last_loss: float | None
    sparkline: list[float | None]
    architecture: str
    placement: str | None
    family: str
    n_params: int
    alerts: AlertCounts
    frames: int


class RunPage(Answer):
    """Runs, newest first."""

    runs: list[RunSummary]
    next_cursor: str | None


class SeriesInfo(Answer):
    """One series of the layout."""

    key: str
    stack: str
    site: str
    quantity: str
    n: int


class StackInfo(Answer):
    """Sizes of one column of blocks."""

    n_layers: int
    d_model: int | None
    seq_len: int | None


class HealthInfo(Answer):
    """One rank's `wire.Health`, and its ack watermark as `durable`."""

    dropped: int = 0
    resent: int = 0
    failures: int = 0
    first_failure: str = ""
    silent: list[str] = Field(default_factory=list)
    stopped: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    overhead: float = 0.0
    every: int = 1
    dropped_sites: list[str] = Field(default_factory=list)
    burst: str = ""
    burst_left: int = 0
    burst_note: str = ""
    wants_alerts: bool = False
    fresh_optimizer_at: int = -1
    durable: int


class RunDetail(RunSummary):
    """Everything about one run except its measurements.

    `unjudged` counts the stored frames that the alert rules have not judged yet.
    """

    config: dict[str, Any]
    layout: list[SeriesInfo]
    stacks: dict[str, StackInfo]
    missing: list[MissingInfo]
    notes: list[str]
    health: dict[str, HealthInfo]
    first_step: int | None
    agent_version: str
    started_at: float
    end_reason: str
    revision_steps: list[int]
    superseded: list[list[int]]
    unjudged: int


class DescriptionAsked(Answer):
    """A description of the model that the agent is asked for."""

    id: str


class BurstAsked(Answer):
    """A burst that the agent is asked for."""

    id: str


class BurstRequest(BaseModel):
    """Body of ``POST /runs/{id}/burst``."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(default=32, ge=1, le=256)
    layers: list[Annotated[int, Field(ge=0, le=1_000_000)]] = Field(
        default_factory=list, max_length=4096
    )


class RunChange(BaseModel):
    """Body of ``PATCH /runs/{id}``; what is absent stays as it is."""

    model_config = ConfigDict(extra="forbid")

    tags: list[StorableText] | None = Field(default=None, max_length=50)
    name: StorableText | None = Field(default=None, min_length=1, max_length=200)
