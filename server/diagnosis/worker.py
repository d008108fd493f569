"""The diagnosis worker: judges every durable frame once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

import dslm
from server.alerts.events import publish_alerts
from server.alerts.rules import Observation, StackFacts, facts, observe
from server.alerts.service import AlertState, Outcome, diagnose
from server.app_state import AppState
from server.bus.protocol import COMMITTED, DIAGNOSIS
from server.diagnosis.repository import DiagnosisRepository
from server.predictions.repository import PredictionRepository
from server.predictions.service import ready, unpack_spec
from server.runs.repository import RunRepository
from server.runs.status import status_of
from wire import Health, Layout

FRAMES_A_TURN = 32  # judged in one go: requests wait that long at most
WAIT_S = 2.0  # also how soon frames are found whose message was lost
RUNS_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a run between turns."""

    alert_state: AlertState = field(default_factory=AlertState)
    revisions: tuple[Any, ...] = ()
    stacks: Mapping[str, StackFacts] = field(default_factory=dict)


class Diagnosis:
    """Judges frames; its memory is a cache, the marks in the database say where it stands."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._known: dict[str, _Known] = {}

    async def turn(self) -> None:
        """Judge what the bus says is new, and whatever else is behind."""
        bus = self._state.bus
        entries = await bus.read(COMMITTED, DIAGNOSIS, count=256, wait_s=WAIT_S)
        named = [entry.body.decode() for entry in entries]
        async with self._state.database.reading() as session:
            behind = await DiagnosisRepository(session).behind()
        for run_id in dict.fromkeys([*named, *behind]):
            while await self._judge_some(run_id):
                await asyncio.sleep(0)  # a long backlog leaves room for requests
        await bus.acknowledge(COMMITTED, DIAGNOSIS, [entry.id for entry in entries])

    async def _judge_some(self, run_id: str) -> bool:
        """Judge a few frames in one transaction; whether more may wait."""
        known = self._known.get(run_id, _Known())
        async with self._state.database.writing() as session:
            run = await RunRepository(session).get(run_id, lock=True)
            if run is None:
                return False
            known = await _up_to_date(session, run_id, known)
            rows = await _take_unjudged(session, run_id)
            observations = await _observations(session, run_id, rows, known.stacks)
            if not observations:
                return False
            outcome = await diagnose(
                session,
                run_id=run_id,
                alert_state=known.alert_state,
                observations=observations,
                now=self._state.clock(),
            )
            await _set_status(session, run, outcome, self._state.settings.lost_contact_s)
            if outcome.to_notify and run["ended"] is None:
                # What theory says of an alert should be said of today's weights.
                await RunRepository(session).ask_for_description(run_id)
                await self._ask_for_burst(session, run, outcome)
        self._remember(run_id, _Known(outcome.alert_state, known.revisions, known.stacks))
        await tell(self._state, outcome)
        return len(observations) == FRAMES_A_TURN

    async def _ask_for_burst(
        self, session: AsyncSession, run: RowMapping, outcome: Outcome
    ) -> None:
        """A critical alert is worth a closer look, at every layer: the cause may lie in another."""
        steps = self._state.settings.burst_steps
        critical = any(alert.severity == "critical" for alert in outcome.to_notify)
        if steps and critical and run["burst"] is None:
            await RunRepository(session).ask_for_burst(run["id"], steps)

    def _remember(self, run_id: str, known: _Known) -> None:
        self._known.pop(run_id, None)
        self._known[run_id] = known
        if len(self._known) > RUNS_REMEMBERED:
            del self._known[next(iter(self._known))]


async def tell(state: AppState, outcome: Outcome) -> None:
    """Pages see every change; webhooks what is worth a notice."""
    if outcome.changed:
        await publish_alerts(state.bus, outcome.changed)
    state.delivery.tell(outcome.to_notify)


async def _up_to_date(session: AsyncSession, run_id: str, known: _Known) -> _Known:
    """Read model and predictions again if one of them changed."""
    revisions = await DiagnosisRepository(session).revision_states(run_id)
    if revisions == known.revisions:
        return known
    repository = PredictionRepository(session)
    packed = await repository.spec(run_id, revisions[0][0])
    rows = await repository.of_run(run_id)
    stacks = await asyncio.to_thread(_facts, packed, rows)
    return _Known(known.alert_state, revisions, stacks)


def _facts(packed: bytes | None, rows: Any) -> Mapping[str, StackFacts]:
    if packed is None:
        return {}
    try:
        spec = dslm.spec_from_json(unpack_spec(packed))
    except dslm.SpecError:
        return {}  # its prediction says why
    return facts(spec, ready(rows))


async def _take_unjudged(
    session: AsyncSession, run_id: str
) -> list[tuple[RowMapping, Health | None]]:
    """Frames of the lowest rank, which speaks for the run; the marks move on with them."""
    repository = DiagnosisRepository(session)
    marks = await RunRepository(session).marks_of(run_id)
    if not marks:
        return []
    lowest, *others = marks
    for mark in others:
        await repository.judged(mark, mark["durable"])
    rows = await repository.unjudged(lowest, FRAMES_A_TURN)
    reached = rows[-1]["seq"] if len(rows) == FRAMES_A_TURN else lowest["durable"]
    await repository.judged(lowest, reached)
    health = msgspec.convert(lowest["health"], Health) if lowest["health"] else None
    return [(row, health) for row in rows]


async def _observations(
    session: AsyncSession,
    run_id: str,
    rows: list[tuple[RowMapping, Health | None]],
    stacks: Mapping[str, StackFacts],
) -> list[Observation]:
    if not rows:
        return []
    layouts: dict[str, Layout] = await RunRepository(session).layouts_of(run_id)
    return [
        observe(
            step=row["step"],
            layout=layouts[row["layout"]],
            values=np.frombuffer(row["values"], dtype="<f4"),
            stacks=stacks,
            health=health,
        )
        for row, health in rows
    ]


async def _set_status(
    session: AsyncSession, run: RowMapping, outcome: Outcome, lost_contact_s: float
) -> None:
    if outcome.diverging is None or outcome.diverging == run["diverging"]:
        return
    status = status_of(
        ended=run["ended"],
        diverged=run["diverged"],
        diverging=outcome.diverging,
        silent_s=0.0,
        lost_contact_s=lost_contact_s,
    )
    await RunRepository(session).change(run["id"], diverging=outcome.diverging, status=status)
