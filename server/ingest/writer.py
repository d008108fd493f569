"""The writer: takes batches off the bus and commits them, then tells everybody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import structlog
from sqlalchemy.exc import DataError, IntegrityError

from server.bus import BusFull, Entry
from server.bus.protocol import COMMITTED, FRAMES, WRITER
from server.ingest.commit import Committed, commit_run
from server.ingest.envelope import Envelope, unseal
from server.live.messages import announce, announce_runs
from server.parts import Parts
from server.runs.repository import RunRepository
from server.workers import persist

ENTRIES_A_TURN = 64
WAIT_S = 1.0

log = structlog.get_logger(__name__)


async def write(parts: Parts) -> None:
    """One turn: commit what waits on the bus, in one transaction.

    What was read stays unacknowledged until it is committed: if the database is away, the same
    entries are tried again until it is back.
    """
    entries = await parts.bus.read(FRAMES, WRITER, count=ENTRIES_A_TURN, wait_s=WAIT_S)
    if entries:
        await _until_settled(parts, entries)


async def _until_settled(parts: Parts, entries: list[Entry]) -> None:
    committed = await persist("writer", lambda: commit(parts, entries), parts.metrics)
    await tell(parts, committed)
    await persist(
        "writer",
        lambda: parts.bus.acknowledge(FRAMES, WRITER, [entry.id for entry in entries]),
        parts.metrics,
    )


async def commit(parts: Parts, entries: Sequence[Entry]) -> list[Committed]:
    """Commit these entries together; one that the database refuses is dropped, the rest kept."""
    envelopes = [found for entry in entries if (found := _opened(parts, entry)) is not None]
    try:
        return await _commit_all(parts, envelopes)
    except (DataError, IntegrityError) as error:
        if len(envelopes) == 1:
            parts.metrics.entries_rejected.inc()
            log.error("batch_refused", run=envelopes[0].run_id, error=repr(error))
            return []
    return [one for entry in entries for one in await commit(parts, [entry])]


async def _commit_all(parts: Parts, envelopes: Sequence[Envelope]) -> list[Committed]:
    by_run: defaultdict[str, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        by_run[envelope.run_id].append(envelope)
    with parts.metrics.commit_seconds.time():
        async with parts.database.writing() as session:
            # Locked in the order of their ids, so that two writers cannot wait for each other.
            runs = await RunRepository(session).get_many(sorted(by_run))
            return [
                await commit_run(session, parts.settings, run, by_run[run["id"]]) for run in runs
            ]


async def tell(parts: Parts, committed: Sequence[Committed]) -> None:
    """Tell pages and diagnosis; what they miss they find in the database."""
    parts.metrics.frames_committed.inc(sum(one.stored for one in committed))
    parts.metrics.frames_duplicate.inc(sum(one.duplicates for one in committed))
    await announce(parts.bus, [one.newest for one in committed if one.newest is not None])
    await announce_runs(parts.bus, [one.run_id for one in committed])
    try:
        for one in committed:
            if one.stored:
                await parts.bus.append(COMMITTED, one.run_id.encode())
    except (OSError, BusFull) as error:
        log.warning("diagnosis_not_told", error=repr(error))


def _opened(parts: Parts, entry: Entry) -> Envelope | None:
    try:
        return unseal(entry.body)
    except msgspec.DecodeError as error:  # another version's entry, left over on Redis
        parts.metrics.entries_rejected.inc()
        log.error("entry_unreadable", entry=entry.id, error=repr(error))
        return None
