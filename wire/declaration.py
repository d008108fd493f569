"""What an agent sends of its run besides frames; these travel as JSON."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from wire.layout import Layout
from wire.version import WIRE_VERSION


class Health(msgspec.Struct, frozen=True):
    """The agent's own counters: what it lost and what it costs, cumulative since its start.

    Attributes:
        dropped: frames given up because the spool was full.
        resent: frames sent more than once.
        failures: failures guarded inside the job.
        first_failure: the first one's reason, or "".
        silent: places that have not been measured yet, such as what an unknown block adds.
        stopped: places that were measured before and are not any more, while others still are.
        overhead: share of the job's time the agent took, 0 to 1.
        every: the current sampling interval in steps.
        dropped_sites: sites no longer measured, because they cost more than the budget allows; or,
            with a colon and the reason, those that a pipeline's stages cannot agree on.
        burst: id of the last burst begun or refused, or "".
        burst_left: steps the running burst still has.
        burst_note: how the last burst ended early, or why it was refused, or "".
        wants_alerts: whether the job acts on alerts, so that receipts carry them.
        fresh_optimizer_at: number of the process's first step, where it went on from a later one
            with an optimizer that remembered nothing of the steps before; else -1.
        notes: what is left out of the numbers, or of whom they are not, in a sentence each.
    """

    dropped: int = 0
    resent: int = 0
    failures: int = 0
    first_failure: str = ""
    silent: tuple[str, ...] = ()
    overhead: float = 0.0
    every: int = 1
    dropped_sites: tuple[str, ...] = ()
    burst: str = ""
    burst_left: int = 0
    burst_note: str = ""
    wants_alerts: bool = False
    stopped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fresh_optimizer_at: int = -1


class Writer(msgspec.Struct, frozen=True):
    """The process that sends frames as one rank of a run; a rank has one at a time.

    Attributes:
        id: chosen by the process, the same for as long as it sends.
        host, pid: where it runs, named to another process that claims the rank.
        since: seconds since the epoch when it began.
        take_over: whether it claims the rank though another process holds it.
    """

    id: str
    host: str = ""
    pid: int = 0
    since: float = 0.0
    take_over: bool = False


class RunDeclaration(msgspec.Struct, frozen=True):
    """Body of ``PUT /api/v1/runs/{run_id}``: idempotent, the agent chooses the run's id.

    Attributes:
        project: the run's project.
        name: the run's name; need not be unique.
        layout: layout of the frames that follow; a later declaration may add another.
        spec: `dslm.ModelSpec` in its JSON form at the step of the declaration, or None while
            the model is not described yet (then it follows as a `SpecRevision`).
        tags: text to search by.
        config: the user's own settings, shown as they are.
        started_at: seconds since the epoch.
        agent_version: version of evenkeel in the job.
        rank: which rank's frames follow; counts where there is a `writer`.
        writer: who sends them, or None from an agent that claims no rank.
    """

    project: str
    name: str
    layout: Layout
    spec: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    started_at: float = 0.0
    agent_version: str = ""
    wire_version: int = WIRE_VERSION
    rank: int = 0
    writer: Writer | None = None


class SpecRevision(msgspec.Struct, frozen=True):
    """Body of ``PUT /api/v1/runs/{run_id}/spec``: the model's weight moments at a later step.

    The first revision of a run (its lowest step) is the one "at initialisation" refers to.

    Attributes:
        step: the step described.
        spec: `dslm.ModelSpec` in its JSON form, without its `flows`.
        flows: those, in their JSON form; None where nothing was measured inside the blocks.
    """

    step: int
    spec: dict[str, Any]
    flows: dict[str, Any] | None = None


class RunEnd(msgspec.Struct, frozen=True):
    """Body of ``POST /api/v1/runs/{run_id}/end``.

    Attributes:
        status, reason: how the run ended, and why.
        rank, epoch: the sender's claim, which ends with the run; epoch 0 is none.
    """

    status: Literal["finished", "failed"]
    reason: str = ""
    rank: int = 0
    epoch: int = 0
