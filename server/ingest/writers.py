"""Who may send as a rank of a run: one process at a time, by a lease with an epoch.

A process claims its rank with its declaration and gets an epoch. Its batches repeat the epoch, and
each renews the lease. Another process is refused while the lease stands, unless it takes over; it
gets the next epoch, and batches of an earlier one are not stored from then on. Agents that claim
nothing send without an epoch, and are refused only while another process holds a lease.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_first, insert
from server.errors import OtherWriter
from server.tables import writers
from wire import Writer

LEASE_S = 30.0  # an agent that lives sends at least a heartbeat every 5 s


class WriterRow(msgspec.Struct, frozen=True):
    """The last process that claimed a rank, and until when it holds it."""

    run_id: str
    rank: int
    epoch: int
    writer: str
    host: str
    pid: int
    since: float
    leased_until: float

    def holds(self, now: float) -> bool:
        """Whether its lease stands."""
        return now < self.leased_until

    def excludes(self, epoch: int, now: float) -> bool:
        """Whether a batch of this epoch is another process's."""
        return self.holds(now) if epoch == 0 else epoch != self.epoch


class WriterRepository:
    """SQL over `writers`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, run_id: str, rank: int) -> WriterRow | None:
        """The last process that claimed the rank, or None."""
        query = select(writers).where(writers.c.run_id == run_id, writers.c.rank == rank)
        return await fetch_first(self._session, query, WriterRow)

    async def put(self, row: WriterRow) -> None:
        """Store a claim in place of the one before."""
        columns = msgspec.structs.asdict(row)
        statement = insert(self._session, writers).values(**columns)
        await self._session.execute(
            statement.on_conflict_do_update(index_elements=["run_id", "rank"], set_=columns)
        )

    async def lease(self, row: WriterRow, until: float) -> None:
        """Move the end of a claim's lease."""
        values: dict[str, Any] = {"leased_until": until}
        of_claim = (
            writers.c.run_id == row.run_id,
            writers.c.rank == row.rank,
            writers.c.epoch == row.epoch,
        )
        await self._session.execute(update(writers).where(*of_claim).values(**values))


async def claim(
    session: AsyncSession, run_id: str, rank: int, writer: Writer | None, now: float
) -> int:
    """The epoch of a claim, 0 where none is made; the caller holds the run's lock.

    Raises:
        OtherWriter: if another process holds the rank, and this one does not take over.
    """
    if writer is None:
        return 0
    repository = WriterRepository(session)
    holder = await repository.get(run_id, rank)
    is_same = holder is not None and holder.writer == writer.id
    if holder is not None and holder.holds(now) and not (is_same or writer.take_over):
        raise refusal(holder)
    epoch = 1 if holder is None else holder.epoch + (not is_same)
    claimed = WriterRow(
        run_id=run_id,
        rank=rank,
        epoch=epoch,
        writer=writer.id,
        host=writer.host,
        pid=writer.pid,
        since=writer.since,
        leased_until=now + LEASE_S,
    )
    await repository.put(claimed)
    return epoch


async def renew(session: AsyncSession, holder: WriterRow | None, epoch: int, now: float) -> None:
    """Extend the lease of a process that has just sent, at most once in half its length."""
    if holder is not None and holder.epoch == epoch and holder.leased_until < now + LEASE_S / 2:
        await WriterRepository(session).lease(holder, now + LEASE_S)


def refusal(holder: WriterRow) -> OtherWriter:
    """The answer to a process that is not the rank's holder."""
    since = datetime.fromtimestamp(holder.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return OtherWriter(
        f"process {holder.pid} on {holder.host or 'an unnamed host'} sends as rank {holder.rank} "
        f"of run {holder.run_id}, since {since}",
        field="writer",
        fix="end that process, give this job a run of its own, or take the rank over with "
        "watch(..., take_over=True)",
    )
