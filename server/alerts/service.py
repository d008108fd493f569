"""What is done with alerts: judge a run's new frames, list, acknowledge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from sqlalchemy.ext.asyncio import AsyncSession

from server import cursor as cursors
from server.alerts import serializers
from server.alerts.divergence import is_diverging
from server.alerts.incidents import recording
from server.alerts.incidents.grouping import AlertChange
from server.alerts.lifecycle import Track, Transition, advance
from server.alerts.repository import AlertFilter, AlertRepository
from server.alerts.rows import AlertRow
from server.alerts.rules import Key, Observation, RunningStats, evaluate, silence
from server.alerts.schemas import Alert, AlertPage
from server.alerts.user_rules.judging import Pasts, UserRule, judged_by
from server.database import Database
from server.errors import NotFound
from server.outbox.outbox import Outbox


@dataclass(frozen=True, slots=True)
class AlertState:
    """What the rules remember of a run between frames; frozen, so a failed commit loses nothing."""

    stats: RunningStats = field(default_factory=RunningStats)
    tracks: Mapping[Key, Track] = field(default_factory=dict)
    pasts: Pasts = field(default_factory=dict)  # of users' rules


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What new frames did to a run's alerts.

    Attributes:
        alert_state: to be handed to the next `diagnose` of this run, once the commit stands.
        changed: alerts as they now are, for open pages.
        alarming: those of them that opened or became more severe, at warning or above, while
            nobody has acknowledged them.
        diverging: whether a critical alert of divergence is now unresolved; None where nothing
            changed.
    """

    alert_state: AlertState
    changed: tuple[Alert, ...] = ()
    alarming: tuple[Alert, ...] = ()
    diverging: bool | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of a run's new frames; nothing of it is stored yet.

    Attributes:
        alert_state: what the rules remember after them.
        transitions: what changes of the run's alerts, in the order of the steps.
    """

    alert_state: AlertState
    transitions: tuple[Transition, ...]


Unresolved = Mapping[Key, AlertRow]


async def unresolved_of(session: AsyncSession, run_id: str) -> dict[Key, AlertRow]:
    """The run's alerts that are open or acknowledged, by what they are about."""
    return {row.finding_key: row for row in await AlertRepository(session).unresolved(run_id)}


def judge(
    alert_state: AlertState,
    unresolved: Unresolved,
    observations: Iterable[Observation],
    rules: Sequence[UserRule] = (),
) -> Judgement:
    """Judge a run's new frames in the order in which they were made. Pure.

    By the built-in rules and by `rules`, its users' own.

    A process that has not judged this run yet hands in a plain ``AlertState()``: which alerts are
    open the database says, so that a restart neither repeats nor forgets one.
    """
    stats, tracks = alert_state.stats, _open_as_stored(alert_state.tracks, unresolved)
    transitions: list[Transition] = []
    pasts = alert_state.pasts
    for observation in observations:
        if observation.rewound and observation.step <= stats.step:
            # The job went back to a checkpoint: what it does from there is news.
            stats = replace(stats, step=observation.step - 1)
        is_replay = observation.step <= stats.step
        verdict, pasts = judged_by(
            rules, evaluate(observation, stats), observation, pasts, is_replay=is_replay
        )
        stats = verdict.stats
        tracks, changes = advance(tracks, verdict)
        transitions += changes
    return Judgement(AlertState(stats, tracks, pasts), tuple(transitions))


async def store(
    session: AsyncSession,
    run_id: str,
    judgement: Judgement,
    unresolved: Unresolved,
    *,
    outbox: Outbox,
    now: float,
) -> Diagnosis:
    """Store a judgement that was made of these unresolved alerts, in the caller's transaction.

    What webhooks receive of it is put into the outbox in the same transaction.
    """
    state, transitions = judgement.alert_state, judgement.transitions
    return await _store(session, run_id, state, transitions, unresolved, outbox=outbox, now=now)


async def diagnose(
    session: AsyncSession,
    *,
    run_id: str,
    alert_state: AlertState,
    observations: Sequence[Observation],
    outbox: Outbox,
    now: float,
    rules: Sequence[UserRule] = (),
) -> Diagnosis:
    """`judge` a run's new frames and `store` what follows, in the caller's transaction."""
    unresolved = await unresolved_of(session, run_id)
    judgement = judge(alert_state, unresolved, observations, rules)
    return await store(session, run_id, judgement, unresolved, outbox=outbox, now=now)


async def report_silence(
    session: AsyncSession, *, run_id: str, step: int, seconds: float, outbox: Outbox, now: float
) -> Diagnosis:
    """Open an alert for a run that was silent for so long; its next frame resolves it."""
    unresolved = await unresolved_of(session, run_id)
    finding = silence(step, seconds)
    is_open = finding.key in unresolved
    opened = Transition("opened", finding.key, step, finding, began=step)
    transitions = [] if is_open else [opened]
    return await _store(
        session, run_id, AlertState(), transitions, unresolved, outbox=outbox, now=now
    )


def _open_as_stored(tracks: Mapping[Key, Track], unresolved: Unresolved) -> dict[Key, Track]:
    """The tracks, where the database decides which alerts are open.

    A track is ahead of the database after a commit that failed, and behind it after a restart.
    """
    stored = {key: Track(open=True, severity=row.severity) for key, row in unresolved.items()}
    agreeing = {key: track for key, track in tracks.items() if track.open == (key in unresolved)}
    return {**stored, **agreeing}


async def _store(
    session: AsyncSession,
    run_id: str,
    alert_state: AlertState,
    transitions: Sequence[Transition],
    unresolved: Unresolved,
    *,
    outbox: Outbox,
    now: float,
) -> Diagnosis:
    if not transitions:
        return Diagnosis(alert_state)
    repository = AlertRepository(session)
    ids = {key: row.id for key, row in unresolved.items()}
    changes: list[AlertChange] = []
    for _, of_step in groupby(transitions, key=lambda transition: transition.step):
        changes += await _store_step(session, run_id, ids, list(of_step), outbox=outbox, now=now)
    alarming = {change.alert for change in changes if change.kind in ("opened", "escalated")}
    touched = dict.fromkeys(change.alert for change in changes)
    changed = [_alert(await repository.get(alert_id)) for alert_id in touched]
    return Diagnosis(
        alert_state=alert_state,
        changed=tuple(changed),
        alarming=tuple(alert for alert in changed if alert.id in alarming and _is_loud(alert)),
        diverging=await is_diverging(session, run_id),
    )


async def _store_step(
    session: AsyncSession,
    run_id: str,
    ids: dict[Key, str],
    transitions: Sequence[Transition],
    *,
    outbox: Outbox,
    now: float,
) -> list[AlertChange]:
    """Store the transitions of one step and what they do to incidents.

    Step by step, so that a batch of frames is told of as its frames one by one would be.
    """
    repository = AlertRepository(session)
    incidents = await recording.load(session, run_id, transitions[0].step)
    changes = []
    for transition in transitions:
        alert_id = await _apply(repository, run_id, ids, transition=transition, now=now)
        if alert_id is not None:
            changes.append(_change(alert_id, transition))
    await recording.record(session, run_id, incidents, changes, outbox=outbox, now=now)
    return changes


def _change(alert_id: str, transition: Transition) -> AlertChange:
    finding = transition.finding
    return AlertChange(
        alert=alert_id,
        key=transition.key,
        kind=transition.kind,
        step=transition.step,
        severity="info" if finding is None else finding.severity,
        began=transition.began,
    )


async def _apply(
    repository: AlertRepository,
    run_id: str,
    ids: dict[Key, str],
    *,
    transition: Transition,
    now: float,
) -> str | None:
    """Store one transition; returns the id of its alert, and keeps `ids` in step."""
    alert_id = ids.get(transition.key)
    if transition.finding is None:
        if alert_id is not None:
            del ids[transition.key]
            await repository.change(alert_id, status="resolved", resolved_at=now)
    elif alert_id is None:
        alert = serializers.new_alert(run_id, transition.finding, began=transition.began, now=now)
        await repository.add(alert)
        alert_id = ids[transition.key] = alert.id
    elif transition.kind == "persisted":
        await repository.change(alert_id, last_step=transition.step)
    else:
        await repository.change(alert_id, **serializers.finding_columns(transition.finding))
    return alert_id


def _is_loud(alert: Alert) -> bool:
    return alert.status == "open" and alert.severity != "info"


async def list_alerts(
    database: Database, filters: AlertFilter, *, cursor: str | None, limit: int
) -> AlertPage:
    """One page of alerts, newest first."""
    async with database.reading() as session:
        rows = await AlertRepository(session).page(
            filters, before=cursors.decode(cursor), limit=limit + 1
        )
    shown = rows[:limit]
    more = len(rows) > limit
    return AlertPage(
        alerts=[serializers.alert(row) for row in shown],
        next_cursor=cursors.encode(shown[-1].opened_at, shown[-1].id) if more else None,
    )


async def acknowledge(database: Database, alert_id: str, *, project: str | None) -> Alert:
    """Mark an open alert as acknowledged; again, or once it is resolved, changes nothing.

    Raises:
        NotFound: if there is no such alert in the project.
    """
    async with database.writing() as session:
        repository = AlertRepository(session)
        row = await repository.get(alert_id)
        if row is None or project not in (None, row.project):
            raise NotFound(
                f"there is no alert {alert_id!r}",
                field="alert_id",
                fix="list alerts with GET /api/v1/alerts",
            )
        if row.status == "open":
            await repository.change(alert_id, status="acknowledged")
            row = await repository.get(alert_id)
    return _alert(row)


def _alert(row: AlertRow | None) -> Alert:
    if row is None:
        raise LookupError("an alert vanished inside its own transaction")
    return serializers.alert(row)
