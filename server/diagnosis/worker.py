"""The diagnosis worker: judges every durable frame once, in order; no run waits for another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.divergence import set_diverging
from server.alerts.rules import Key
from server.alerts.service import Diagnosis, Judgement, Unresolved, judge, store, unresolved_of
from server.alerts.user_rules.active import ActiveRules
from server.app_state import AppState
from server.bus.protocol import COMMITTED, DIAGNOSIS
from server.database import is_refusal
from server.diagnosis.announce import announce
from server.diagnosis.backlog import Backlog, Memory, read_backlog
from server.diagnosis.judges import Judges
from server.diagnosis.repository import DiagnosisRepository
from server.diagnosis.schedule import Schedule, Share
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository
from server.runs.rows import RunRow

WAIT_S = 2.0  # also how soon frames are judged whose message was lost
LOOK_S = 0.5  # between looks for such frames while others are judged
CACHED_RUNS = 1024  # a forgotten run only loses its recent past, not which alerts are open

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A run's backlog, and what the rules say of it."""

    run_id: str
    backlog: Backlog
    judgement: Judgement


class DiagnosisWorker:
    """Judges frames. What it remembers is a cache: the database says which frames are judged."""

    def __init__(self, state: AppState, outbox: Outbox) -> None:
        self._state = state
        self._outbox = outbox
        self._judges = Judges(state.database, state.clock)
        self._schedule = Schedule()
        self._rules = ActiveRules(state.settings.peer_rules)
        self._memories: dict[str, Memory] = {}
        self._looked_at = float("-inf")

    async def turn(self) -> None:
        """Judge a little of some runs; what is new is heard of between any two turns."""
        await self._judges.renew()
        await self._note_new()
        shares = self._schedule.next()
        if not shares:
            return
        backlogs = await self._read(shares)
        # In a thread: requests are served meanwhile, and no lock is held.
        judged = await asyncio.to_thread(self._judge, backlogs)
        diagnoses = await self._store(judged)
        for diagnosis in diagnoses:
            await announce(self._state.bus, self._outbox, diagnosis)

    async def close(self) -> None:
        """Leave the runs of this process to others."""
        await self._judges.resign()

    async def _note_new(self) -> None:
        """Hear what is new from the bus, and look for what it did not say."""
        bus, idle = self._state.bus, not len(self._schedule)
        wait_s = WAIT_S if idle else 0.0
        messages = await bus.read(COMMITTED, DIAGNOSIS, count=256, wait_s=wait_s)
        now = time.monotonic()
        run_ids = {message.run_id for message in messages}
        looks = (idle and not messages) or now - self._looked_at >= LOOK_S
        if looks or (run_ids and self._judges.id):
            async with self._state.database.reading() as session:
                repository, free = DiagnosisRepository(session), self._judges.free()
                if self._judges.id:  # a message may be about a run that another process judges
                    run_ids = set(await repository.behind(free, sorted(run_ids)))
                if looks:
                    run_ids.update(await repository.behind(free))
                    self._looked_at = now
        for run_id in run_ids:
            self._schedule.note(run_id, now)
        metrics = self._state.metrics
        metrics.runs_unjudged.set(len(self._schedule))
        metrics.judging_lag.set(self._schedule.longest_wait_s(now))
        # At once: whatever ends this process, the database says what is not judged.
        await bus.acknowledge(COMMITTED, DIAGNOSIS, [message.id for message in messages])

    async def _read(self, shares: Sequence[Share]) -> dict[str, Backlog]:
        backlogs: dict[str, Backlog] = {}
        async with self._state.database.reading() as session:
            await self._rules.read(session)
            for share in shares:
                memory = self._memories.get(share.run_id, Memory())
                backlog = await read_backlog(
                    session, share.run_id, memory, frames=share.frames, rules=self._rules
                )
                if backlog is None:
                    self._schedule.done(share.run_id, more=False)
                else:
                    backlogs[share.run_id] = backlog
        return backlogs

    def _judge(self, backlogs: dict[str, Backlog]) -> list[_Judged]:
        judged = []
        for run_id, backlog in backlogs.items():
            try:
                past, observations = backlog.memory.alert_state, backlog.observations()
                judgement = judge(past, backlog.unresolved, observations, backlog.rules)
            except Exception as error:  # the worker loop: others must not wait for this run
                self._give_way(run_id, error)
            else:
                judged.append(_Judged(run_id, backlog, judgement))
        return judged

    async def _store(self, judged: Sequence[_Judged]) -> list[Diagnosis]:
        """Store these judgements together; one that the database refuses waits, others do not."""
        if not judged:
            return []
        try:
            return await self._store_together(judged)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(judged) == 1:
                self._give_way(judged[0].run_id, error)
                return []
        return [diagnosis for one in judged for diagnosis in await self._store([one])]

    async def _store_together(self, judged: Sequence[_Judged]) -> list[Diagnosis]:
        diagnoses: dict[str, Diagnosis] = {}
        async with self._state.database.writing() as session:
            # Locked in the order of their ids, as the writer does.
            runs = await RunRepository(session).get_many(sorted(each.run_id for each in judged))
            by_id = {run.id: run for run in runs}
            for each in judged:
                run = by_id.get(each.run_id)
                diagnosis = None if run is None else await self._store_run(session, run, each)
                if diagnosis is not None:
                    diagnoses[each.run_id] = diagnosis
        # Only now: a commit that failed leaves the memory as it was, and the frames unjudged.
        for each in judged:
            if each.run_id in diagnoses:
                self._finish(each, diagnoses[each.run_id], by_id[each.run_id])
            else:
                self._schedule.done(each.run_id, more=False)  # the next look finds what is left
        return list(diagnoses.values())

    def _finish(self, judged: _Judged, diagnosis: Diagnosis, run: RunRow) -> None:
        backlog = judged.backlog
        memory = replace(backlog.memory, judged=backlog.reached, alert_state=diagnosis.alert_state)
        self._remember(run.id, memory)
        self._schedule.done(run.id, more=backlog.more, diverged=run.diverged)
        self._state.metrics.frames_judged.inc(len(backlog.frames))

    def _give_way(self, run_id: str, error: Exception) -> None:
        self._state.metrics.worker_failures.labels("diagnosis").inc()
        log.error("run_not_judged", run=run_id, error=repr(error), exc_info=error)
        self._schedule.failed(run_id, time.monotonic())

    async def _store_run(
        self, session: AsyncSession, run: RunRow, judged: _Judged
    ) -> Diagnosis | None:
        """Store one run's judgement; None where its ground has changed since it was read."""
        backlog, repository = judged.backlog, DiagnosisRepository(session)
        unresolved = await unresolved_of(session, run.id)
        if _ids(unresolved) != _ids(backlog.unresolved):
            return None
        if not await repository.advance(backlog.rank, backlog.reached, judge=self._judges.id):
            return None
        for rank in backlog.others:
            await repository.advance(rank, max(rank.durable, rank.diagnosed), judge=self._judges.id)
        state = self._state
        diagnosis = await store(
            session, run.id, judged.judgement, unresolved, outbox=self._outbox, now=state.clock()
        )
        if diagnosis.diverging is not None:
            lost_contact_s = state.settings.lost_contact_s
            await set_diverging(
                session, run, diagnosis.diverging, silent_s=0.0, lost_contact_s=lost_contact_s
            )
        if diagnosis.alarming and run.ended is None:
            # An alert should be compared with the prediction from the weights it is about.
            await RunRepository(session).ask_for_description(run.id)
            await self._ask_for_burst(session, run, diagnosis)
        return diagnosis

    async def _ask_for_burst(
        self, session: AsyncSession, run: RunRow, diagnosis: Diagnosis
    ) -> None:
        """Ask for a burst of every layer when a critical alert opens: any may be the cause."""
        steps = self._state.settings.burst_steps
        critical = any(alert.severity == "critical" for alert in diagnosis.alarming)
        if steps and critical and run.burst is None:
            await RunRepository(session).ask_for_burst(run.id, steps)

    def _remember(self, run_id: str, memory: Memory) -> None:
        self._memories.pop(run_id, None)
        self._memories[run_id] = memory
        if len(self._memories) > CACHED_RUNS:
            del self._memories[next(iter(self._memories))]


def _ids(unresolved: Unresolved) -> dict[Key, str]:
    return {key: row.id for key, row in unresolved.items()}
