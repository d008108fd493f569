"""The rows of `runs` and `marks` as typed values: one field a column, in the tables' order."""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from server.runs.status import Ending, Status


class Sparkline(TypedDict):
    """Every `stride`-th loss of the `seen` ones so far; the keys are those of stored JSON."""

    stride: int
    seen: int
    values: list[float | None]


class Burst(TypedDict):
    """A burst that the agent is asked for, until it has received the command."""

    id: str
    steps: int
    layers: list[int]


class RunRow(msgspec.Struct, frozen=True):
    """A run: what its agent declared, and how it fares.

    Attributes:
        diverged: whether the newest loss or stream is not finite.
        diverging: whether a critical alert of divergence is open.
        describe_id: id under which a description of the model is asked for, or None.
        process_since: when the newest process of the job declared itself, by the server's clock.
    """

    id: str
    project: str
    name: str
    tags: list[str]
    tag_index: str
    config: dict[str, Any]
    status: Status
    ended: Ending | None
    end_reason: str
    diverged: bool
    diverging: bool
    created_at: float
    started_at: float
    last_seen: float
    first_step: int | None
    last_step: int | None
    last_loss: float | None
    sparkline: Sparkline
    frames: int
    layout_hash: str
    agent_version: str
    family: str
    architecture: str
    placement: str | None
    n_params: int
    stacks: dict[str, dict[str, int]]
    missing: list[dict[str, str]]
    notes: list[str]
    describe_id: str | None
    burst: Burst | None
    process_since: float


class RankRow(msgspec.Struct, frozen=True):
    """How far one rank's frames have come, each as the highest `seq` that has.

    Attributes:
        durable: the ack watermark: up to here frames are committed or were given up.
        oldest: lowest `seq` that the agent's spool still holds.
        diagnosed: judged by the alert rules.
        packed: moved into segments.
        top_seq, top_step: the newest frame that was sent.
        rewinds: see `server.runs.rewinds`.
        health: `wire.Health` of the newest batch as builtins; {} before the first.
        judge: the server process that judges it (`server.diagnosis.judges`), "" before the first.
    """

    run_id: str
    rank: int
    durable: int
    oldest: int
    diagnosed: int
    packed: int
    top_seq: int
    top_step: int
    rewinds: list[list[int]]
    health: dict[str, Any]
    last_seen: float
    judge: str = ""
