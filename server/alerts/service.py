"""What is done with alerts: judge a run's new frames, list, acknowledge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from server import cursor as cursors
from server.alerts import serializers
from server.alerts.lifecycle import Track, Transition, advance
from server.alerts.repository import AlertFilter, AlertRepository
from server.alerts.rules import Key, Memory, Observation, evaluate, silence
from server.alerts.schemas import Alert, AlertPage
from server.database import Database
from server.errors import NotFound

# A critical alert of these rules makes a run's status "diverged".
DIVERGENCE_RULES = frozenset({"nonfinite", "loss_divergence"})


@dataclass(frozen=True, slots=True)
class AlertState:
    """All that is remembered of a run between frames; frozen, so a failed commit loses nothing."""

    memory: Memory = field(default_factory=Memory)
    tracks: Mapping[Key, Track] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What new frames did to a run's alerts.

    Attributes:
        alert_state: to be handed to the next `diagnose` of this run, once the commit stands.
        changed: alerts as they now are, for open pages.
        to_notify: those of them that webhooks are told: opened or become more severe, at warning
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
    now: float,
) -> Outcome:
    """Judge a run's new frames, in ascending step, inside the caller's transaction.

    A process that has not judged this run yet hands in a plain ``AlertState()``: which alerts are
    open is read from the database, so a restart neither repeats nor forgets one.
    """
    repository = AlertRepository(session)
    standing = {serializers.key_of(row): row for row in await repository.unresolved(run_id)}
    alert_state = AlertState(alert_state.memory, _open_as_stored(alert_state.tracks, standing))
    transitions: list[Transition] = []
    for observation in observations:
        verdict = evaluate(observation, alert_state.memory)
        tracks, found = advance(alert_state.tracks, verdict)
        alert_state = AlertState(verdict.memory, tracks)
        transitions += found
    return await _store(
        repository, run_id, alert_state, transitions=transitions, standing=standing, now=now
    )


async def report_silence(
    session: AsyncSession, *, run_id: str, step: int, seconds: float, now: float
) -> Outcome:
    """Open an alert for a run that has not spoken for so long; its next frame resolves it."""
    repository = AlertRepository(session)
    standing = {serializers.key_of(row): row for row in await repository.unresolved(run_id)}
    finding = silence(step, seconds)
    transitions = (
        [] if finding.key in standing else [Transition("opened", finding.key, step, finding)]
    )
    return await _store(
        repository, run_id, AlertState(), transitions=transitions, standing=standing, now=now
    )


def _open_as_stored(
    tracks: Mapping[Key, Track], standing: Mapping[Key, Mapping[str, Any]]
) -> dict[Key, Track]:
    """The tracks, with the database's word on which alerts are open."""
    kept = {key: track for key, track in tracks.items() if not track.open or key in standing}
    stored = {key: Track(open=True, severity=row["severity"]) for key, row in standing.items()}
    unopened = {key for key, track in kept.items() if not track.open and key in standing}
    return {**stored, **{key: track for key, track in kept.items() if key not in unopened}}


async def _store(
    repository: AlertRepository,
    run_id: str,
    alert_state: AlertState,
    *,
    transitions: Sequence[Transition],
    standing: Mapping[Key, Mapping[str, Any]],
    now: float,
) -> Outcome:
    if not transitions:
        return Outcome(alert_state)
    ids = {key: str(row["id"]) for key, row in standing.items()}
    touched: dict[str, bool] = {}  # alert id -> whether it is worth a notice
    for transition in transitions:
        alert_id = await _apply(repository, run_id, ids, transition=transition, now=now)
        if alert_id is not None:
            loud = transition.kind in {"opened", "escalated"}
            touched[alert_id] = touched.get(alert_id, False) or loud
    changed = [_found(await repository.get(alert_id)) for alert_id in touched]
    return Outcome(
        alert_state=alert_state,
        changed=tuple(changed),
        to_notify=tuple(one for one in changed if touched[one.id] and _is_loud(one)),
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
    alert_id = ids.get(transition.key)
    if transition.finding is None:
        if alert_id is not None:
            del ids[transition.key]
            await repository.change(alert_id, status="resolved", resolved_at=now)
    elif alert_id is None:
        row = serializers.new_row(run_id, transition.finding, now)
        await repository.add(row)
        alert_id = ids[transition.key] = row["id"]
    else:
        seen = transition.kind == "seen"
        values = (
            {"last_step": transition.step}
            if seen
            else serializers.found_columns(transition.finding)
        )
        await repository.change(alert_id, **values)
    return alert_id


def _is_loud(alert: Alert) -> bool:
    return alert.status == "open" and alert.severity != "info"


def _diverges(row: Mapping[str, Any]) -> bool:
    return row["severity"] == "critical" and row["rule"] in DIVERGENCE_RULES


async def list_alerts(
    database: Database, wanted: AlertFilter, *, cursor: str | None, limit: int
) -> AlertPage:
    """One page of alerts, newest first."""
    async with database.reading() as session:
        rows = await AlertRepository(session).page(
            wanted, before=cursors.decode(cursor), limit=limit + 1
        )
    shown = rows[:limit]
    more = len(rows) > limit
    return AlertPage(
        alerts=[serializers.alert(row) for row in shown],
        next_cursor=cursors.encode(shown[-1]["opened_at"], shown[-1]["id"]) if more else None,
    )


async def acknowledge(database: Database, alert_id: str, *, project: str | None) -> Alert:
    """Mark an open alert as seen by somebody; again, or once it is resolved, changes nothing.

    Raises:
        NotFound: if there is no such alert in the project.
    """
    async with database.writing() as session:
        repository = AlertRepository(session)
        row = await repository.get(alert_id)
        if row is None or project not in (None, row["project"]):
            raise NotFound(
                f"there is no alert {alert_id!r}",
                field="alert_id",
                fix="list alerts with GET /api/v1/alerts",
            )
        if row["status"] == "open":
            await repository.change(alert_id, status="acknowledged")
            row = await repository.get(alert_id)
    return _found(row)


def _found(row: Mapping[str, Any] | None) -> Alert:
    if row is None:
        raise LookupError("an alert vanished inside its own transaction")
    return serializers.alert(row)
