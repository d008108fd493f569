"""The writer: takes batches off the bus, commits them, and publishes what is new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import structlog

from server.app_state import AppState
from server.bus import BusFull, Message
from server.bus.protocol import COMMITTED, FRAMES, WRITER
from server.database import is_refusal
from server.errors import RunNotFound
from server.events import publish, publish_runs
from server.ingest.commit import CommitResult, commit_run
from server.runs.repository import RunRepository
from server.workers import persist

MESSAGES_A_TURN = 64
WAIT_S = 1.0

log = structlog.get_logger(__name__)


async def write(state: AppState) -> None:
    """One turn: commit what waits on the bus, in one transaction.

    Messages stay unacknowledged until they are committed: while the database is away, the same
    ones are tried again.
    """
    messages = await state.bus.read(FRAMES, WRITER, count=MESSAGES_A_TURN, wait_s=WAIT_S)
    if not messages:
        return
    await announce(state, await commit(state, messages))
    ids = [message.id for message in messages]
    await persist("writer", lambda: state.bus.acknowledge(FRAMES, WRITER, ids), state.metrics)


async def commit(state: AppState, messages: Sequence[Message]) -> list[CommitResult]:
    """Commit these messages together; one that is refused is dropped, the others are committed."""
    results = await persist("writer", lambda: _attempt(state, messages), state.metrics)
    if results is not None:
        return results
    return [result for message in messages for result in await commit(state, [message])]


async def _attempt(state: AppState, messages: Sequence[Message]) -> list[CommitResult] | None:
    """The results, or None if one of several messages is refused: which one, single ones show."""
    try:
        return await _commit_together(state, messages)
    except Exception as error:
        if not is_refusal(error):
            raise
        if len(messages) > 1:
            return None
        state.metrics.entries_rejected.inc()
        log.error("message_refused", run=messages[0].run_id, error=repr(error))
        return []


async def _commit_together(state: AppState, messages: Sequence[Message]) -> list[CommitResult]:
    by_run: defaultdict[str, list[Message]] = defaultdict(list)
    for message in messages:
        by_run[message.run_id].append(message)
    with state.metrics.commit_seconds.time():
        async with state.database.writing() as session:
            # Locked in the order of their ids, so that two writers cannot wait for each other.
            runs = {run.id: run for run in await RunRepository(session).get_many(sorted(by_run))}
            for run_id in by_run:
                if run_id not in runs:
                    raise RunNotFound(run_id)
            return [
                await commit_run(session, state.settings, run, by_run[run.id])
                for run in runs.values()
            ]


async def announce(state: AppState, results: Sequence[CommitResult]) -> None:
    """Publish new frames to pages and diagnosis; what they miss they find in the database."""
    state.metrics.frames_committed.inc(sum(result.stored for result in results))
    state.metrics.frames_duplicate.inc(sum(result.duplicates for result in results))
    events = [event for result in results for event in (result.scalars, result.newest)]
    await publish(state.bus, [event for event in events if event is not None])
    await publish_runs(state.bus, [result.run_id for result in results])
    try:
        for result in results:
            if result.stored:
                await state.bus.append(COMMITTED, result.run_id)
    except (OSError, BusFull) as error:
        log.warning("diagnosis_not_notified", error=repr(error))
