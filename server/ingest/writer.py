"""The writer: takes batches off the bus and commits them, then tells everybody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import structlog
from sqlalchemy.exc import DataError, IntegrityError

from server.app_state import AppState
from server.bus import BusFull, Entry
from server.bus.protocol import COMMITTED, FRAMES, WRITER
from server.events import publish, publish_runs
from server.ingest.commit import Committed, commit_run
from server.ingest.envelope import Envelope, unseal
from server.runs.repository import RunRepository
from server.workers import persist

ENTRIES_A_TURN = 64
WAIT_S = 1.0

log = structlog.get_logger(__name__)


async def write(state: AppState) -> None:
    """One turn: commit what waits on the bus, in one transaction.

    What was read stays unacknowledged until it is committed: if the database is away, the same
    entries are tried again until it is back.
    """
    entries = await state.bus.read(FRAMES, WRITER, count=ENTRIES_A_TURN, wait_s=WAIT_S)
    if entries:
        await _until_settled(state, entries)


async def _until_settled(state: AppState, entries: list[Entry]) -> None:
    committed = await persist("writer", lambda: commit(state, entries), state.metrics)
    await tell(state, committed)
    await persist(
        "writer",
        lambda: state.bus.acknowledge(FRAMES, WRITER, [entry.id for entry in entries]),
        state.metrics,
    )


async def commit(state: AppState, entries: Sequence[Entry]) -> list[Committed]:
    """Commit these entries together; one that the database refuses is dropped, the rest kept."""
    envelopes = [found for entry in entries if (found := _opened(state, entry)) is not None]
    try:
        return await _commit_all(state, envelopes)
    except (DataError, IntegrityError) as error:
        if len(envelopes) == 1:
            state.metrics.entries_rejected.inc()
            log.error("batch_refused", run=envelopes[0].run_id, error=repr(error))
            return []
    return [one for entry in entries for one in await commit(state, [entry])]


async def _commit_all(state: AppState, envelopes: Sequence[Envelope]) -> list[Committed]:
    by_run: defaultdict[str, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        by_run[envelope.run_id].append(envelope)
    with state.metrics.commit_seconds.time():
        async with state.database.writing() as session:
            # Locked in the order of their ids, so that two writers cannot wait for each other.
            runs = await RunRepository(session).get_many(sorted(by_run))
            return [
                await commit_run(session, state.settings, run, by_run[run["id"]]) for run in runs
            ]


async def tell(state: AppState, committed: Sequence[Committed]) -> None:
    """Tell pages and diagnosis; what they miss they find in the database."""
    state.metrics.frames_committed.inc(sum(one.stored for one in committed))
    state.metrics.frames_duplicate.inc(sum(one.duplicates for one in committed))
    await publish(state.bus, [one.newest for one in committed if one.newest is not None])
    await publish_runs(state.bus, [one.run_id for one in committed])
    try:
        for one in committed:
            if one.stored:
                await state.bus.append(COMMITTED, one.run_id.encode())
    except (OSError, BusFull) as error:
        log.warning("diagnosis_not_told", error=repr(error))


def _opened(state: AppState, entry: Entry) -> Envelope | None:
    try:
        return unseal(entry.body)
    except msgspec.DecodeError as error:  # another version's entry, left over on Redis
        state.metrics.entries_rejected.inc()
        log.error("entry_unreadable", entry=entry.id, error=repr(error))
        return None
