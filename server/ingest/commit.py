"""What one transaction does for one run: its frames, its ranks, and its line in the run list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from server.bus import Message
from server.events import FrameEvent, ScalarsEvent
from server.ingest.ack_watermark import advance
from server.ingest.marks import possible
from server.ingest.repository import FrameRepository
from server.ingest.summary import summary_columns
from server.ingest.writers import WriterRepository, renew
from server.runs import rewinds
from server.runs.repository import RunRepository
from server.runs.rows import RunRow
from server.settings import Settings
from server.storage.rows import FrameRow
from server.storage.step_scalars import rows_after
from wire import Frame, FrameBatch, Layout, decode_batch, first_step

Layouts = Mapping[str, Layout]


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit did for one run; the events are None where no page has anything new to show."""

    run_id: str
    stored: int
    duplicates: int
    newest: FrameEvent | None
    scalars: ScalarsEvent | None = None


@dataclass(frozen=True, slots=True)
class NewFrames:
    """What was new in one batch.

    Attributes:
        rank: the batch's.
        sent: how many frames the batch held.
        frames: those that were stored, ascending in `seq`: of sampled steps, and of scalars.
        ahead: those of them past every frame that the rank had sent before.
        back_to: the step that the rank is at now, where it went back to an earlier one.
    """

    rank: int
    sent: int
    frames: Sequence[Frame]
    ahead: Sequence[Frame]
    back_to: int | None


async def commit_run(
    session: AsyncSession, settings: Settings, run: RunRow, messages: Sequence[Message]
) -> CommitResult:
    """Store a run's batches; the caller holds the run's lock and commits.

    Raises:
        WireError: if a body is no batch.
    """
    repository, runs = FrameRepository(session), RunRepository(session)
    decoded = [decode_batch(message.body) for message in messages]
    hashes = {frame.layout for batch in decoded for frame in batch.frames}
    layouts = await runs.layouts_of(run.id, hashes)
    batches = [
        await _store_batch(session, layouts, message, batch)
        for message, batch in zip(messages, decoded, strict=True)
    ]
    stored = [frame for batch in batches for frame in batch.frames]
    # The lowest rank speaks for the run, in its loss, sparkline, status and live pages: the
    # others see other parts of the batch, and would mix with it.
    lowest = await repository.lowest_rank(run.id)
    speaking = [batch for batch in batches if batch.rank == lowest]
    changes = summary_columns(
        run,
        frames=[frame for batch in speaking for frame in batch.frames],
        layouts=layouts,
        steps=[
            step for batch in batches for frame in batch.frames for step in _ends(frame, layouts)
        ],
        back_to=[batch.back_to for batch in speaking if batch.back_to is not None],
        received_at=max(message.received_at for message in messages),
        lost_contact_s=settings.lost_contact_s,
    )
    sampled, _ = _by_kind(stored, layouts)
    await runs.change(run.id, **changes, frames=run.frames + len(sampled))
    sent = sum(batch.sent for batch in batches)
    ahead, scalars = _by_kind([frame for batch in speaking for frame in batch.ahead], layouts)
    return CommitResult(
        run.id,
        stored=len(stored),
        duplicates=sent - len(stored),
        newest=_newest(run.id, ahead),
        scalars=_new_scalars(run.id, scalars, layouts),
    )


async def _store_batch(
    session: AsyncSession, layouts: Layouts, message: Message, batch: FrameBatch
) -> NewFrames:
    """Store what is new of a batch and advance its rank's ack watermark."""
    run_id, repository = message.run_id, FrameRepository(session)
    holder = await WriterRepository(session).get(run_id, batch.rank)
    if holder is not None and holder.excludes(batch.epoch, message.received_at):
        # Taken over since it was accepted: not stored, it is not acknowledged either.
        return NewFrames(batch.rank, 0, [], [], None)
    await renew(session, holder, batch.epoch, message.received_at)
    rank = await possible(repository, await repository.ensure_rank(run_id, batch.rank))
    seqs = [frame.seq for frame in batch.frames]
    stored = await repository.stored_among(run_id, rank.rank, rank.durable, seqs)
    frames = [frame for frame in batch.frames if frame.seq not in stored]
    sampled, scalars = _by_kind(frames, layouts)
    await repository.add([_row(run_id, rank.rank, frame) for frame in sampled])
    await _store_scalars(repository, run_id, rank.rank, scalars, layouts)
    before = rewinds.progress_of(rank)
    spans = [rewinds.Span(frame.seq, *_ends(frame, layouts)) for frame in frames]
    after = rewinds.advance(before, spans)
    # A resent batch may arrive after a newer one; and no mark passes what the rank has sent.
    oldest = max(rank.oldest, min(batch.oldest, after.seq + 1))
    await repository.change_rank(
        run_id,
        rank.rank,
        durable=advance(rank.durable, oldest=oldest, stored=stored | {f.seq for f in frames}),
        oldest=oldest,
        health=msgspec.to_builtins(batch.health),
        last_seen=message.received_at,
        **rewinds.columns(after),
    )
    ahead = [frame for frame in frames if frame.seq > before.seq]
    back_to = after.step if after.rewinds != before.rewinds else None
    return NewFrames(rank.rank, len(batch.frames), frames, ahead, back_to)


async def _store_scalars(
    repository: FrameRepository, run_id: str, rank: int, frames: Sequence[Frame], layouts: Layouts
) -> None:
    if frames:
        newest = await repository.newest_scalars(run_id, rank)
        rows = rows_after(newest, frames, layouts, run_id=run_id, rank=rank)
        await repository.put_scalars(rows)


def _by_kind(frames: Sequence[Frame], layouts: Layouts) -> tuple[list[Frame], list[Frame]]:
    """The frames of sampled steps, and those that hold the scalars of other steps."""
    kinds: tuple[list[Frame], list[Frame]] = ([], [])
    for frame in frames:
        kinds[layouts[frame.layout].packs_steps].append(frame)
    return kinds


def _ends(frame: Frame, layouts: Layouts) -> tuple[int, int]:
    """The first and the last step of a frame."""
    return first_step(frame, layouts[frame.layout]), frame.step


def _row(run_id: str, rank: int, frame: Frame) -> FrameRow:
    return FrameRow(run_id, rank, frame.seq, frame.step, frame.time, frame.layout, frame.values)


def _new_scalars(run_id: str, frames: Sequence[Frame], layouts: Layouts) -> ScalarsEvent | None:
    if not frames:
        return None
    first = min(first_step(frame, layouts[frame.layout]) for frame in frames)
    return ScalarsEvent(run=run_id, first=first)


def _newest(run_id: str, ahead: Sequence[Frame]) -> FrameEvent | None:
    if not ahead:
        return None
    newest = max(ahead, key=lambda frame: frame.seq)
    return FrameEvent(
        run=run_id,
        step=newest.step,
        time=newest.time,
        layout=newest.layout,
        values=newest.values,
        skipped=len(ahead) - 1,
    )
