"""Take declarations and batches: check, store or hand on, answer with the ack watermark."""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from server.access.dependencies import require_project
from server.access.principal import Principal
from server.alerts import serializers
from server.alerts.repository import AlertRepository
from server.app_state import AppState
from server.bus import BusFull
from server.bus.protocol import FRAMES
from server.errors import Conflict, RunNotFound, Unavailable
from server.events import publish_runs
from server.ingest import writers
from server.ingest.body import from_wire
from server.ingest.declaration import changes, new_run
from server.ingest.repository import FrameRepository
from server.ingest.validation import require_batch, require_declaration, require_same
from server.predictions import service as predictions
from server.runs.repository import RunRepository
from server.runs.rows import RunRow
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
    """Store or refresh a run; the same declaration twice is the same run.

    Raises:
        InvalidField: if the declaration cannot be stored.
        Conflict: if the run belongs to another project.
        OtherWriter: if another process holds the rank.
    """
    require_declaration(declaration)
    require_project(caller, declaration.project)
    state.probe.require_room()
    # One transaction: a run is never visible without its layout, which every reader looks up.
    async with state.database.writing() as session:
        repository = RunRepository(session)
        added = await repository.add(new_run(run_id, declaration, state.clock()))
        run = await repository.get(run_id, lock=True)
        if run is None:  # pragma: no cover - it was just added
            raise RunNotFound(run_id)
        _require_same_project(run, declaration)
        if not added:
            await repository.change(run_id, **changes(run, declaration, state.clock()))
        now = state.clock()
        epoch = await writers.claim(session, run_id, declaration.rank, declaration.writer, now)
        await repository.add_layout(run_id, declaration.layout)
        durable = await FrameRepository(session).ack_watermarks(run_id)
    if epoch > 1:
        # The rank's watermark is others' too: the answer to its first batch tells its own.
        durable[str(declaration.rank)] = 0
    if declaration.spec is not None:
        step = 0 if run.last_step is None else run.last_step
        await predictions.revise(state, run_id, step, declaration.spec)
    await publish_runs(state.bus, [run_id])
    return RunReceipt(
        run_id=run_id, durable=durable, url=f"/runs/{run_id}", packs_steps=True, epoch=epoch
    )


async def revise(state: AppState, run: RunRow, revision: SpecRevision) -> None:
    """Store a model spec; its prediction is computed in the background."""
    await predictions.revise(state, run.id, revision.step, revision.spec, revision.flows)
    if run.describe_id is not None:
        async with state.database.writing() as session:
            await RunRepository(session).clear_description(run.id, run.describe_id)


async def accept(state: AppState, run: RunRow, body: bytes) -> FramesReceipt:
    """Check a batch and hand it to the writer, all of it or nothing.

    Raises:
        InvalidField: if the body is no batch, or one of its frames cannot be stored.
        ConflictingFrame: if another frame is stored under the number of one of them.
        UnknownLayout: if a frame's layout is not declared.
        OtherWriter: if another process holds the rank.
        DiskFull: if the server has no room for it.
        Unavailable: if the batch could not be handed over; the agent then keeps its frames.
    """
    batch = _decoded(body)
    state.probe.require_room()
    async with state.database.reading() as session:
        hashes = {frame.layout for frame in batch.frames}
        require_batch(batch, await RunRepository(session).layouts_of(run.id, hashes))
        repository = FrameRepository(session)
        holder = await writers.WriterRepository(session).get(run.id, batch.rank)
        if holder is not None and holder.excludes(batch.epoch, state.clock()):
            raise writers.refusal(holder)
        watermark = await repository.ack_watermark(run.id, batch.rank)
        seqs = [frame.seq for frame in batch.frames]
        stored = await repository.stored_among(run.id, batch.rank, watermark, seqs)
        sent_again = [seq for seq in seqs if seq in stored]
        if sent_again:
            contents = await repository.contents(run.id, batch.rank, sent_again)
            require_same(batch.frames, contents)
    # Counted before the commit: afterwards every frame of the batch would be stored.
    duplicates = len(sent_again)
    accepted = len(batch.frames) - duplicates
    await _hand_over(state, run.id, body)
    state.metrics.frames_accepted.inc(accepted)
    run = await _without_received_burst(state, run, batch)
    async with state.database.reading() as session:
        # Read again: the embedded bus returns once the batch is committed.
        durable = await FrameRepository(session).watermark_of(
            run.id, batch.rank, batch, has_had_others=holder is not None and holder.epoch > 1
        )
        # After the watermark: taken over before it was read, it may be of another's frames.
        holder = await writers.WriterRepository(session).get(run.id, batch.rank)
        if holder is not None and holder.excludes(batch.epoch, state.clock()):
            raise writers.refusal(holder)
        alerts = await _alerts(session, run) if batch.health.wants_alerts else []
    return FramesReceipt(
        durable=durable,
        accepted=accepted,
        duplicates=duplicates,
        commands=[*_commands(run), *alerts],
    )


def _commands(run: RunRow) -> list[Command]:
    """What is asked of the agent, repeated with every answer until it is done."""
    commands = []
    if run.describe_id is not None:
        commands.append(Command(id=run.describe_id, kind="describe"))
    if run.burst is not None:
        burst = run.burst
        layers = tuple(burst["layers"])
        commands.append(Command(burst["id"], "burst", steps=burst["steps"], layers=layers))
    return commands


async def _without_received_burst(state: AppState, run: RunRow, batch: FrameBatch) -> RunRow:
    """The run, without its burst once the agent has reported that burst."""
    if run.burst is None or batch.health.burst != run.burst["id"]:
        return run
    async with state.database.writing() as session:
        await RunRepository(session).clear_burst(run.id, run.burst["id"])
    return msgspec.structs.replace(run, burst=None)


async def _alerts(session: AsyncSession, run: RunRow) -> list[Command]:
    """Open alerts since the job's newest process started: earlier ones are not of its making."""
    unresolved = await AlertRepository(session).unresolved(run.id)
    return [
        # An alert that becomes more severe is another command, and acted on again.
        Command(f"{row.id}:{row.severity}", "alert", alert=serializers.notice(row))
        for row in unresolved
        if row.status == "open" and row.opened_at >= run.process_since
    ]


async def end(state: AppState, run: RunRow, ending: RunEnd) -> None:
    """Note how the run ended."""
    async with state.database.writing() as session:
        repository = RunRepository(session)
        # Read again, under the lock: diagnosis may have changed what the status follows from.
        locked = await repository.get(run.id, lock=True)
        if locked is None:  # pragma: no cover - the endpoint has just loaded it
            raise RunNotFound(run.id)
        claims = writers.WriterRepository(session)
        holder = await claims.get(run.id, ending.rank)
        if holder is not None and ending.epoch:
            if holder.excludes(ending.epoch, state.clock()):
                raise writers.refusal(holder)
            await claims.lease(holder, state.clock())  # the next job need not wait for its end
        status = status_of(
            ended=ending.status,
            diverged=locked.diverged,
            diverging=locked.diverging,
            silent_s=0.0,
            lost_contact_s=state.settings.lost_contact_s,
        )
        values = {"ended": ending.status, "end_reason": ending.reason, "status": status}
        await repository.change(run.id, **values, last_seen=state.clock())
    await publish_runs(state.bus, [run.id])


async def _hand_over(state: AppState, run_id: str, body: bytes) -> None:
    handing_over = state.bus.hand_over(FRAMES, run_id, body, received_at=state.clock())
    try:
        await asyncio.wait_for(handing_over, timeout=COMMIT_TIMEOUT_S)
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


def _require_same_project(run: RunRow, declaration: RunDeclaration) -> None:
    if run.project != declaration.project:
        raise Conflict(
            f"run {run.id} belongs to project {run.project!r}",
            field="project",
            fix="use the run's own project, or a new run id",
        )
