"""The diagnosis worker: judges every durable frame once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.divergence import set_diverging
from server.alerts.rules import Observation, StackFacts, observe, observe_scalars
from server.alerts.service import AlertState, Diagnosis, diagnose
from server.alerts.stack_facts import read_facts
from server.alerts.user_rules.active import ActiveRules
from server.app_state import AppState
from server.bus.protocol import COMMITTED, DIAGNOSIS
from server.diagnosis.announce import announce
from server.diagnosis.repository import DiagnosisRepository
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository
from server.runs.rows import RunRow
from server.storage.rows import FrameRow
from server.storage.step_scalars import StepScalars
from wire import Health, Layout, scalars_of

# Judged without a pause: requests wait that long at most.
FRAMES_A_TURN, SCALAR_STEPS_A_TURN = 32, 512
WAIT_S = 2.0  # also how soon frames are judged whose message was lost
CACHED_RUNS = 1024  # a forgotten run only loses its recent past, not which alerts are open


@dataclass(frozen=True, slots=True)
class _RunCache:
    """What is remembered of a run between turns.

    Attributes:
        alert_state: the run's recent past, and which alerts are open.
        revisions: the states of its predictions that `stacks` was made from.
        stacks: its model and theory's curves, as the rules read them.
    """

    alert_state: AlertState = field(default_factory=AlertState)
    revisions: tuple[tuple[Any, ...], ...] = ()
    stacks: Mapping[str, StackFacts] = field(default_factory=dict)


class DiagnosisWorker:
    """Judges frames. What it remembers is a cache: the database says which frames are judged."""

    def __init__(self, state: AppState, outbox: Outbox) -> None:
        self._state = state
        self._outbox = outbox
        self._cache: dict[str, _RunCache] = {}
        self._rules = ActiveRules(state.settings.peer_rules)

    async def turn(self) -> None:
        """Judge what the bus says is new, and whatever else is behind."""
        bus = self._state.bus
        messages = await bus.read(COMMITTED, DIAGNOSIS, count=256, wait_s=WAIT_S)
        async with self._state.database.reading() as session:
            behind = await DiagnosisRepository(session).behind()
        for run_id in dict.fromkeys([*(message.run_id for message in messages), *behind]):
            while await self._judge_some(run_id):
                await asyncio.sleep(0)  # between turns of a long backlog, requests are served
        await bus.acknowledge(COMMITTED, DIAGNOSIS, [message.id for message in messages])

    async def _judge_some(self, run_id: str) -> bool:
        """Judge a few frames in one transaction; whether more may wait."""
        cache = self._cache.get(run_id, _RunCache())
        async with self._state.database.writing() as session:
            run = await RunRepository(session).get(run_id, lock=True)
            if run is None:
                return False
            cache = await _up_to_date(session, run_id, cache)
            unjudged = await _take_unjudged(session, run_id, cache.stacks)
            if not unjudged.observations:
                return False
            diagnosis = await diagnose(
                session,
                run_id=run_id,
                alert_state=cache.alert_state,
                observations=unjudged.observations,
                outbox=self._outbox,
                now=self._state.clock(),
                rules=await self._rules.of_run(session, project=run.project, tags=run.tags),
            )
            if diagnosis.diverging is not None:
                lost_contact_s = self._state.settings.lost_contact_s
                await set_diverging(
                    session, run, diagnosis.diverging, silent_s=0.0, lost_contact_s=lost_contact_s
                )
            if diagnosis.alarming and run.ended is None:
                # An alert should be compared with the prediction from the weights it is about.
                await RunRepository(session).ask_for_description(run_id)
                await self._ask_for_burst(session, run, diagnosis)
        # Only now: a commit that failed leaves the cache as it was, and the frames unjudged.
        self._remember(run_id, replace(cache, alert_state=diagnosis.alert_state))
        await announce(self._state.bus, self._outbox, diagnosis)
        return unjudged.more

    async def _ask_for_burst(
        self, session: AsyncSession, run: RunRow, diagnosis: Diagnosis
    ) -> None:
        """Ask for a burst of every layer when a critical alert opens: any may be the cause."""
        steps = self._state.settings.burst_steps
        critical = any(alert.severity == "critical" for alert in diagnosis.alarming)
        if steps and critical and run.burst is None:
            await RunRepository(session).ask_for_burst(run.id, steps)

    def _remember(self, run_id: str, cache: _RunCache) -> None:
        self._cache.pop(run_id, None)
        self._cache[run_id] = cache
        if len(self._cache) > CACHED_RUNS:
            del self._cache[next(iter(self._cache))]


async def _up_to_date(session: AsyncSession, run_id: str, cache: _RunCache) -> _RunCache:
    """Read model and predictions again if a prediction changed."""
    revisions = await DiagnosisRepository(session).revision_states(run_id)
    if revisions == cache.revisions:
        return cache
    stacks = await read_facts(session, run_id, revisions[0][0])
    return _RunCache(cache.alert_state, revisions, stacks)


@dataclass(frozen=True, slots=True)
class _Unjudged:
    """Steps to judge, in the order the job took them, and whether more of them wait."""

    observations: Sequence[Observation] = ()
    more: bool = False


async def _take_unjudged(
    session: AsyncSession, run_id: str, stacks: Mapping[str, StackFacts]
) -> _Unjudged:
    """Some unjudged steps of the lowest rank, which speaks for the run; all ranks move on."""
    repository = DiagnosisRepository(session)
    ranks = await RunRepository(session).ranks_of(run_id)
    if not ranks:
        return _Unjudged()
    lowest, *others = ranks
    for rank in others:
        await repository.set_diagnosed(rank, rank.durable)
    frames = await repository.unjudged(lowest, FRAMES_A_TURN)
    reached = frames[-1].seq if len(frames) == FRAMES_A_TURN else lowest.durable
    scalars = await repository.unjudged_scalars(lowest, reached)
    reached = _last_seq(scalars, reached)
    await repository.set_diagnosed(lowest, reached)
    layouts: dict[str, Layout] = await RunRepository(session).layouts_of(run_id)
    health = msgspec.convert(lowest.health, Health) if lowest.health else None
    sampled = [
        (frame.seq, _of_frame(frame, layouts, stacks, health))
        for frame in frames
        if frame.seq <= reached
    ]
    unsampled = [
        (int(seq), observe_scalars(step=int(step), series=series, values=values))
        for part in scalars
        for series in [scalars_of(layouts[part.layout])]
        for seq, step, values in zip(part.seqs, part.steps, part.values, strict=True)
        if seq <= reached
    ]
    # Stable: the steps of one frame stay in their order.
    in_order = sorted([*sampled, *unsampled], key=itemgetter(0))
    return _Unjudged([observation for _, observation in in_order], more=reached < lowest.durable)


def _last_seq(scalars: Sequence[StepScalars], reached: int) -> int:
    """The last frame to judge now, `reached` where its steps and those before are few enough."""
    seqs = np.concatenate([np.empty(0, np.int64), *(part.seqs for part in scalars)])
    if len(seqs) <= SCALAR_STEPS_A_TURN:
        return reached
    return max(int(seqs[0]), int(seqs[SCALAR_STEPS_A_TURN]) - 1)


def _of_frame(
    frame: FrameRow,
    layouts: Mapping[str, Layout],
    stacks: Mapping[str, StackFacts],
    health: Health | None,
) -> Observation:
    return observe(
        step=frame.step,
        layout=layouts[frame.layout],
        values=np.frombuffer(frame.values, dtype="<f4"),
        stacks=stacks,
        health=health,
    )
