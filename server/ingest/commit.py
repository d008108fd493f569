"""What one transaction does for one run: frames, marks, and the run's own line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import Row
from server.events import FrameEvent
from server.ingest.ack_watermark import advance
from server.ingest.envelope import Envelope
from server.ingest.repository import FrameRepository
from server.runs import rewinds, sparkline
from server.runs.repository import RunRepository
from server.runs.status import status_of
from server.settings import Settings
from wire import Frame, Layout


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did for one run."""

    run_id: str
    stored: int
    duplicates: int
    newest: FrameEvent | None


@dataclass(frozen=True, slots=True)
class _Stored:
    """What was new in one batch.

    Attributes:
        frames: ascending in number.
        ahead: those of them past every frame the rank had sent before.
        back_to: the step that the rank has now reached, where it went back to an earlier one.
    """

    frames: Sequence[Frame]
    ahead: Sequence[Frame]
    back_to: int | None


async def commit_run(
    session: AsyncSession, settings: Settings, run: Row, batches: Sequence[Envelope]
) -> Committed:
    """Store a run's batches; the caller holds the run's lock and commits."""
    repository = FrameRepository(session)
    fresh = [await _commit_batch(repository, envelope) for envelope in batches]
    spoken = await repository.lowest_rank(run["id"])
    heard_of = [
        stored
        for envelope, stored in zip(batches, fresh, strict=True)
        if envelope.batch.rank == spoken
    ]
    frames = list(chain.from_iterable(stored.frames for stored in heard_of))
    ahead = list(chain.from_iterable(stored.ahead for stored in heard_of))
    layouts = await RunRepository(session).layouts_of(run["id"])
    heard = max(envelope.received_at for envelope in batches)
    changed = _run_after(run, frames, layouts, heard, settings)
    stored = sum(len(one.frames) for one in fresh)
    steps = [frame.step for one in fresh for frame in one.frames]
    back_to = next((one.back_to for one in reversed(heard_of) if one.back_to is not None), None)
    reached = _steps_after(run, steps) | ({} if back_to is None else {"last_step": back_to})
    await RunRepository(session).change(
        run["id"], **changed, **reached, frames=run["frames"] + stored
    )
    sent = sum(len(envelope.batch.frames) for envelope in batches)
    return Committed(run["id"], stored, sent - stored, _newest(run["id"], ahead))


async def _commit_batch(repository: FrameRepository, envelope: Envelope) -> _Stored:
    """Store what is new of a batch and advance its rank's mark; returns what was new."""
    run_id, batch = envelope.run_id, envelope.batch
    held = await repository.held_mark(run_id, batch.rank)
    above = await repository.seqs_above(run_id, batch.rank, held["durable"])
    fresh = [one for one in batch.frames if one.seq > held["durable"] and one.seq not in above]
    await repository.add([_row(run_id, batch.rank, frame) for frame in fresh])
    oldest = max(held["oldest"], batch.oldest)
    before = rewinds.reached(held)
    now = rewinds.advance(before, fresh)
    await repository.set_mark(
        run_id,
        batch.rank,
        durable=advance(
            held["durable"], oldest=oldest, stored=above | {frame.seq for frame in fresh}
        ),
        oldest=oldest,
        health=msgspec.to_builtins(batch.health),
        last_seen=envelope.received_at,
        **rewinds.columns(now),
    )
    ahead = [frame for frame in fresh if frame.seq > before.seq]
    return _Stored(fresh, ahead, now.step if now.rewinds != before.rewinds else None)


def _row(run_id: str, rank: int, frame: Frame) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "rank": rank,
        "seq": frame.seq,
        "step": frame.step,
        "time": frame.time,
        "layout": frame.layout,
        "values": frame.values,
    }


def _run_after(
    run: Row,
    frames: Sequence[Frame],
    layouts: Mapping[str, Layout],
    heard: float,
    settings: Settings,
) -> dict[str, Any]:
    losses = [_loss(frame, layouts[frame.layout]) for frame in frames]
    known = _known(losses, spoken=run["last_loss"] is not None)
    diverged = run["diverged"]
    if frames:
        stream_lost = _stream_is_nonfinite(frames[-1], layouts[frames[-1].layout])
        diverged = stream_lost or bool(known and not np.isfinite(known[-1]))
    status = status_of(
        ended=run["ended"],
        diverged=diverged,
        diverging=run["diverging"],
        silent_s=0.0,
        lost_contact_s=settings.lost_contact_s,
    )
    return {
        "diverged": diverged,
        "status": status,
        "last_seen": max(heard, run["last_seen"]),
        "last_loss": known[-1] if known else run["last_loss"],
        "sparkline": sparkline.extend(run["sparkline"], known),
    }


def _steps_after(run: Row, steps: Sequence[int]) -> dict[str, int | None]:
    first = [*steps, *([] if run["first_step"] is None else [run["first_step"]])]
    last = [*steps, *([] if run["last_step"] is None else [run["last_step"]])]
    return {"first_step": min(first, default=None), "last_step": max(last, default=None)}


def _loss(frame: Frame, layout: Layout) -> float | None:
    """The loss of a frame; None where the layout has none."""
    where = layout.slices.get("/loss/value")
    return None if where is None else float(frame.unpack()[where.start])


def _known(losses: Sequence[float | None], *, spoken: bool) -> list[float]:
    """The losses that were measured: until a first number comes, NaN says "unknown"."""
    known: list[float] = []
    for loss in losses:
        if loss is not None and (spoken or known or not np.isnan(loss)):
            known.append(loss)
    return known


def _stream_is_nonfinite(frame: Frame, layout: Layout) -> bool:
    """Whether the residual stream of any layer holds NaN or Inf.

    Where the share of such values is measured it decides, since a variance of NaN alone may
    also mean "not seen"; an infinite variance has overflowed in any case.
    """
    values, slices = frame.unpack(), layout.slices
    for one in layout:
        if (one.site, one.quantity) == ("stream", "variance"):
            variance = values[slices[one.key]]
            share = slices.get(f"{one.stack}/stream/nonfinite")
            broken = np.isnan(variance) if share is None else values[share] > 0
            if bool(broken.any() or np.isinf(variance).any()):
                return True
    return False


def _newest(run_id: str, frames: Sequence[Frame]) -> FrameEvent | None:
    if not frames:
        return None
    newest = max(frames, key=lambda frame: frame.seq)
    return FrameEvent(
        run=run_id,
        step=newest.step,
        time=newest.time,
        layout=newest.layout,
        values=newest.values,
        skipped=len(frames) - 1,
    )
