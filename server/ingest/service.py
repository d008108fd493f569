"""Take declarations and batches: check, store or hand on, answer with the durable mark."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession

from server.access.dependencies import require_project
from server.access.principal import Principal
from server.alerts import serializers
from server.alerts.repository import AlertRepository
from server.app_state import AppState
from server.bus import BusFull
from server.bus.protocol import FRAMES
from server.database import Row
from server.errors import Conflict, RunNotFound, Unavailable
from server.events import publish_runs
from server.ingest import declaring
from server.ingest.envelope import Envelope, seal
from server.ingest.repository import FrameRepository
from server.ingest.validation import from_wire, require_batch, require_declaration
from server.predictions import service as predictions
from server.runs.repository import RunRepository
from server.runs.status import status_of
from wire import (
    Command,
    FrameBatch,
    FramesReceipt,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    SpecRevision,
    WireError,
    decode_batch,
)

COMMIT_TIMEOUT_S = 20.0


async def declare(
    state: AppState, caller: Principal, run_id: str, declaration: RunDeclaration
) -> RunReceipt:
    """Store or refresh a run; the same declaration twice is the same run."""
    require_declaration(declaration)
    require_project(caller, declaration.project)
    async with state.database.writing() as session:
        repository = RunRepository(session)
        added = await repository.add(declaring.new_row(run_id, declaration, state.clock()))
        run = await repository.get(run_id, lock=True)
        if run is None:  # pragma: no cover - it was just added
            raise RunNotFound(run_id)
        _require_same_project(run, declaration)
        if not added:
            await repository.change(run_id, **declaring.refreshed(run, declaration, state.clock()))
        await repository.add_layout(run_id, declaration.layout)
        durable = await FrameRepository(session).marks(run_id)
    if declaration.spec is not None:
        step = 0 if run["last_step"] is None else run["last_step"]
        await predictions.revise(state, run_id, step, declaration.spec)
    await publish_runs(state.bus, [run_id])
    return RunReceipt(run_id=run_id, durable=durable, url=f"/runs/{run_id}")


async def revise(state: AppState, run: Row, revision: SpecRevision) -> None:
    """Store a model spec; its prediction is computed in the background."""
    await predictions.revise(state, run["id"], revision.step, revision.spec)
    if run["describe_id"] is not None:
        async with state.database.writing() as session:
            await RunRepository(session).described(run["id"], run["describe_id"])


async def accept(state: AppState, run: Row, body: bytes) -> FramesReceipt:
    """Check a batch whole and hand it to the writer."""
    batch = _decoded(body)
    async with state.database.reading() as session:
        require_batch(batch, await RunRepository(session).layouts_of(run["id"]))
        frames = FrameRepository(session)
        mark = await frames.mark(run["id"], batch.rank)
        stored = await frames.seqs_above(run["id"], batch.rank, mark)
    known = sum(frame.seq <= mark or frame.seq in stored for frame in batch.frames)
    await _hand_over(state, Envelope(run["id"], state.clock(), batch))
    state.metrics.frames_accepted.inc(len(batch.frames) - known)
    run = await _without_taken_burst(state, run, batch)
    async with state.database.reading() as session:
        durable = await FrameRepository(session).mark(run["id"], batch.rank)
        alerts = await _alerts(session, run) if batch.health.wants_alerts else []
    return FramesReceipt(
        durable=durable,
        accepted=len(batch.frames) - known,
        duplicates=known,
        commands=[*_commands(run), *alerts],
    )


def _commands(run: Row) -> list[Command]:
    """What is asked of the agent: said with every answer until it is done."""
    asked, burst = run["describe_id"], run["burst"]
    commands = [] if asked is None else [Command(id=asked, kind="describe")]
    if burst is not None:
        layers = tuple(burst["layers"])
        commands.append(Command(burst["id"], "burst", steps=burst["steps"], layers=layers))
    return commands


async def _without_taken_burst(state: AppState, run: Row, batch: FrameBatch) -> Row:
    """The run once the agent has said that it heard of the burst asked for."""
    burst = run["burst"]
    if burst is None or batch.health.burst != burst["id"]:
        return run
    async with state.database.writing() as session:
        await RunRepository(session).burst_taken(run["id"], burst["id"])
    return {**run, "burst": None}


async def _alerts(session: AsyncSession, run: Row) -> list[Command]:
    """Open alerts of the process that now speaks: one from before its start is not its doing."""
    found = await AlertRepository(session).unresolved(run["id"])
    return [
        Command(f"{one['id']}:{one['severity']}", "alert", alert=serializers.word(one))
        for one in found
        if one["status"] == "open" and one["opened_at"] >= run["process_since"]
    ]


async def end(state: AppState, run: Row, ending: RunEnd) -> None:
    """Note how the run ended."""
    async with state.database.writing() as session:
        repository = RunRepository(session)
        held = await repository.get(run["id"], lock=True)
        if held is None:  # pragma: no cover - the endpoint has just loaded it
            raise RunNotFound(run["id"])
        status = status_of(
            ended=ending.status,
            diverged=held["diverged"],
            diverging=held["diverging"],
            silent_s=0.0,
            lost_contact_s=state.settings.lost_contact_s,
        )
        values = {"ended": ending.status, "end_reason": ending.reason, "status": status}
        await repository.change(run["id"], **values, last_seen=state.clock())
    await publish_runs(state.bus, [run["id"]])


async def _hand_over(state: AppState, envelope: Envelope) -> None:
    try:
        await asyncio.wait_for(
            state.bus.hand_over(FRAMES, seal(envelope)), timeout=COMMIT_TIMEOUT_S
        )
    except BusFull as error:
        raise _later("the writer is behind") from error
    except (TimeoutError, OSError) as error:
        raise _later("the database or the bus does not answer") from error


def _later(message: str) -> Unavailable:
    return Unavailable(message, fix="keep the frames and send them again in a few seconds")


def _decoded(body: bytes) -> FrameBatch:
    try:
        return decode_batch(body)
    except WireError as error:
        raise from_wire(error) from error


def _require_same_project(run: Row, declaration: RunDeclaration) -> None:
    if run["project"] != declaration.project:
        raise Conflict(
            f"run {run['id']} belongs to project {run['project']!r}",
            field="project",
            fix="use the run's own project, or a new run id",
        )
