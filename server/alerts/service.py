"""What is done with alerts: judge a run's new frames, list, acknowledge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from server import cursor as cursors
from server.alerts import serializers
from server.alerts.lifecycle import Track, Transition, advance
from server.alerts.messages import message_of
from server.alerts.repository import AlertFilter, AlertRepository
from server.alerts.rows import AlertRow
from server.alerts.rules import Key, Observation, RunningStats, evaluate, silence
from server.alerts.schemas import Alert, AlertPage
from server.database import Database
from server.errors import NotFound
from server.outbox.outbox import Outbox

# A critical alert of these rules makes a run's status "diverged".
DIVERGENCE_RULES = frozenset({"nonfinite", "loss_divergence"})


@dataclass(frozen=True, slots=True)
class AlertState:
    """What the rules remember of a run between frames; frozen, so a failed commit loses nothing."""

    stats: RunningStats = field(default_factory=RunningStats)
    tracks: Mapping[Key, Track] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What new frames did to a run's alerts.

    Attributes:
        alert_state: to be handed to the next `diagnose` of this run, once the commit stands.
        changed: alerts as they now are, for open pages.
        to_notify: those of them that webhooks receive: opened or become more severe, at warning
            or above, while nobody has acknowledged them.
        diverging: whether a critical alert of divergence is now unresolved; None where nothing
            changed.
    """

    alert_state: AlertState
    changed: tuple[Alert, ...] = ()
    to_notify: tuple[Alert, ...] = ()
    diverging: bool | None = None


async def diagnose(
    session: AsyncSession,
    *,
    run_id: str,
    alert_state: AlertState,
    observations: Sequence[Observation],
    outbox: Outbox,
    now: float,
) -> Diagnosis:
    """Judge a run's new frames, in ascending step, inside the caller's transaction.

    What webhooks receive of it is put into the outbox in the same transaction.

    A process that has not judged this run yet hands in a plain ``AlertState()``: which alerts are
    open is read from the database, so a restart neither repeats nor forgets one.
    """
    repository = AlertRepository(session)
    unresolved = {row.finding_key: row for row in await repository.unresolved(run_id)}
    stats, tracks = alert_state.stats, _open_as_stored(alert_state.tracks, unresolved)
    transitions: list[Transition] = []
    for observation in observations:
        verdict = evaluate(observation, stats)
        stats = verdict.stats
        tracks, changes = advance(tracks, verdict)
        transitions += changes
    alert_state = AlertState(stats, tracks)
    diagnosis = await _store(repository, run_id, alert_state, transitions, unresolved, now=now)
    await _put(session, outbox, diagnosis, now)
    return diagnosis


async def report_silence(
    session: AsyncSession, *, run_id: str, step: int, seconds: float, outbox: Outbox, now: float
) -> Diagnosis:
    """Open an alert for a run that was silent for so long; its next frame resolves it."""
    repository = AlertRepository(session)
    unresolved = {row.finding_key: row for row in await repository.unresolved(run_id)}
    finding = silence(step, seconds)
    is_open = finding.key in unresolved
    transitions = [] if is_open else [Transition("opened", finding.key, step, finding)]
    diagnosis = await _store(repository, run_id, AlertState(), transitions, unresolved, now=now)
    await _put(session, outbox, diagnosis, now)
    return diagnosis


async def _put(session: AsyncSession, outbox: Outbox, diagnosis: Diagnosis, now: float) -> None:
    repository = AlertRepository(session)
    rows = [await repository.get(alert.id) for alert in diagnosis.to_notify]
    messages = [message_of(_alert(row), row.project) for row in rows if row is not None]
    await outbox.put(session, messages, now)


def _open_as_stored(
    tracks: Mapping[Key, Track], unresolved: Mapping[Key, AlertRow]
) -> dict[Key, Track]:
    """The tracks, where the database decides which alerts are open.

    A track is ahead of the database after a commit that failed, and behind it after a restart.
    """
    stored = {key: Track(open=True, severity=row.severity) for key, row in unresolved.items()}
    agreeing = {key: track for key, track in tracks.items() if track.open == (key in unresolved)}
    return {**stored, **agreeing}


async def _store(
    repository: AlertRepository,
    run_id: str,
    alert_state: AlertState,
    transitions: Sequence[Transition],
    unresolved: Mapping[Key, AlertRow],
    *,
    now: float,
) -> Diagnosis:
    if not transitions:
        return Diagnosis(alert_state)
    ids = {key: row.id for key, row in unresolved.items()}
    touched: dict[str, bool] = {}  # alert id -> whether it is worth a notification
    for transition in transitions:
        alert_id = await _apply(repository, run_id, ids, transition=transition, now=now)
        if alert_id is not None:
            loud = transition.kind in {"opened", "escalated"}
            touched[alert_id] = touched.get(alert_id, False) or loud
    changed = [_alert(await repository.get(alert_id)) for alert_id in touched]
    return Diagnosis(
        alert_state=alert_state,
        changed=tuple(changed),
        to_notify=tuple(alert for alert in changed if touched[alert.id] and _is_loud(alert)),
        diverging=any(map(_diverges, await repository.unresolved(run_id))),
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
        alert = serializers.new_alert(run_id, transition.finding, now)
        await repository.add(alert)
        alert_id = ids[transition.key] = alert.id
    elif transition.kind == "persisted":
        await repository.change(alert_id, last_step=transition.step)
    else:
        await repository.change(alert_id, **serializers.finding_columns(transition.finding))
    return alert_id


def _is_loud(alert: Alert) -> bool:
    return alert.status == "open" and alert.severity != "info"


def _diverges(row: AlertRow) -> bool:
    return row.severity == "critical" and row.rule in DIVERGENCE_RULES


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
