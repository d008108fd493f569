"""What one transaction does for one run: its frames, its ranks, and its line in the run list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from server.bus import Message
from server.events import FrameEvent
from server.ingest.ack_watermark import advance
from server.ingest.repository import FrameRepository
from server.ingest.summary import summary_columns
from server.runs import rewinds
from server.runs.repository import RunRepository
from server.runs.rows import RunRow
from server.settings import Settings
from server.storage.rows import FrameRow
from wire import Frame, decode_batch


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit did for one run; `newest` is None where no page has a new frame to show."""

    run_id: str
    stored: int
    duplicates: int
    newest: FrameEvent | None


@dataclass(frozen=True, slots=True)
class NewFrames:
    """What was new in one batch.

    Attributes:
        rank: the batch's.
        sent: how many frames the batch held.
        frames: those that were stored, ascending in `seq`.
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
    repository = FrameRepository(session)
    batches = [await _store_batch(repository, message) for message in messages]
    # The lowest rank speaks for the run, in its loss, sparkline, status and live pages: the
    # others see other parts of the batch, and would mix with it.
    lowest = await repository.lowest_rank(run.id)
    speaking = [batch for batch in batches if batch.rank == lowest]
    runs = RunRepository(session)
    changes = summary_columns(
        run,
        frames=[frame for batch in speaking for frame in batch.frames],
        layouts=await runs.layouts_of(run.id),
        steps=[frame.step for batch in batches for frame in batch.frames],
        back_to=[batch.back_to for batch in speaking if batch.back_to is not None],
        received_at=max(message.received_at for message in messages),
        lost_contact_s=settings.lost_contact_s,
    )
    stored = sum(len(batch.frames) for batch in batches)
    await runs.change(run.id, **changes, frames=run.frames + stored)
    sent = sum(batch.sent for batch in batches)
    ahead = [frame for batch in speaking for frame in batch.ahead]
    return CommitResult(run.id, stored, sent - stored, _newest(run.id, ahead))


async def _store_batch(repository: FrameRepository, message: Message) -> NewFrames:
    """Store what is new of a batch and advance its rank's ack watermark."""
    run_id, batch = message.run_id, decode_batch(message.body)
    rank = await repository.ensure_rank(run_id, batch.rank)
    # Stored beyond a gap: the watermark alone would not show that they are duplicates.
    above = await repository.seqs_above(run_id, rank.rank, rank.durable)
    frames = [
        frame for frame in batch.frames if frame.seq > rank.durable and frame.seq not in above
    ]
    await repository.add([_row(run_id, rank.rank, frame) for frame in frames])
    oldest = max(rank.oldest, batch.oldest)  # a resent batch may arrive after a newer one
    before = rewinds.progress_of(rank)
    after = rewinds.advance(before, frames)
    await repository.change_rank(
        run_id,
        rank.rank,
        durable=advance(rank.durable, oldest=oldest, stored=above | {f.seq for f in frames}),
        oldest=oldest,
        health=msgspec.to_builtins(batch.health),
        last_seen=message.received_at,
        **rewinds.columns(after),
    )
    ahead = [frame for frame in frames if frame.seq > before.seq]
    back_to = after.step if after.rewinds != before.rewinds else None
    return NewFrames(rank.rank, len(batch.frames), frames, ahead, back_to)


def _row(run_id: str, rank: int, frame: Frame) -> FrameRow:
    return FrameRow(run_id, rank, frame.seq, frame.step, frame.time, frame.layout, frame.values)


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
