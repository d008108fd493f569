"""SQL over `alerts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.tables import alerts, runs

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts a list asks for; None means any."""

    run: str | None = None
    status: str | None = None
    project: str | None = None


class AlertRepository:
    """Alerts, each with the name and project of its run."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, alert_id: str) -> Row | None:
        """The alert, or None."""
        rows = await self._rows(_with_run().where(alerts.c.id == alert_id))
        return rows[0] if rows else None

    async def unresolved(self, run_id: str) -> list[Row]:
        """Alerts of a run that are open or acknowledged: at most one of a key."""
        query = _with_run().where(alerts.c.run_id == run_id, alerts.c.status != "resolved")
        return await self._rows(query)

    async def add(self, row: dict[str, Any]) -> None:
        """Store a new alert."""
        await self._session.execute(alerts.insert().values(**row))

    async def change(self, alert_id: str, **values: Any) -> None:
        """Set columns of one alert."""
        statement = update(alerts).where(alerts.c.id == alert_id).values(**values)
        await self._session.execute(statement)

    async def page(
        self, wanted: AlertFilter, *, before: tuple[float, str] | None, limit: int
    ) -> list[Row]:
        """Alerts newest first, past a cursor."""
        query = _with_run().order_by(alerts.c.opened_at.desc(), alerts.c.id.desc()).limit(limit)
        for condition in _conditions(wanted):
            query = query.where(condition)
        if before is not None:
            query = query.where(tuple_(alerts.c.opened_at, alerts.c.id) < tuple_(*before))
        return await self._rows(query)

    async def _rows(self, query: Select[Any]) -> list[Row]:
        return [dict(row) for row in (await self._session.execute(query)).mappings()]


def _with_run() -> Select[Any]:
    named = (runs.c.name.label("run_name"), runs.c.project)
    return select(alerts, *named).join(runs, runs.c.id == alerts.c.run_id)


def _conditions(wanted: AlertFilter) -> list[ColumnElement[bool]]:
    conditions = []
    if wanted.run is not None:
        conditions.append(alerts.c.run_id == wanted.run)
    if wanted.status is not None:
        conditions.append(alerts.c.status == wanted.status)
    if wanted.project is not None:
        conditions.append(runs.c.project == wanted.project)
    return conditions
