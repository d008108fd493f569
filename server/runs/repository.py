"""SQL over `runs`, `layouts` and `marks`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import insert
from server.tables import alerts, layouts, marks, runs
from wire import Layout, Series


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list asks for; None means any."""

    search: str | None = None
    project: str | None = None
    status: str | None = None
    tag: str | None = None


class RunRepository:
    """Runs, their layouts and their marks."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, run_id: str, *, lock: bool = False) -> RowMapping | None:
        """The run, or None; with `lock`, no other transaction changes it before this one ends."""
        query = select(runs).where(runs.c.id == run_id)
        query = query.with_for_update() if lock else query
        return (await self._session.execute(query)).mappings().first()

    async def get_many(self, ids: Sequence[str]) -> Sequence[RowMapping]:
        """The runs of these ids, in the order of their ids, locked against other writers."""
        query = select(runs).where(runs.c.id.in_(ids)).order_by(runs.c.id).with_for_update()
        return (await self._session.execute(query)).mappings().all()

    async def add(self, row: dict[str, Any]) -> bool:
        """Whether the run was new."""
        statement = insert(self._session, runs).values(**row).on_conflict_do_nothing()
        added = await self._session.execute(statement.returning(runs.c.id))
        return added.first() is not None

    async def change(self, run_id: str, **values: Any) -> None:
        """Set columns of one run."""
        await self._session.execute(update(runs).where(runs.c.id == run_id).values(**values))

    async def ask_for_description(self, run_id: str) -> str:
        """Have the agent told to describe its model; returns the id of that command."""
        asked = uuid.uuid4().hex
        await self.change(run_id, describe_id=asked)
        return asked

    async def described(self, run_id: str, asked: str) -> None:
        """The command of this id is done; a later one stands."""
        done = (runs.c.id == run_id, runs.c.describe_id == asked)
        await self._session.execute(update(runs).where(*done).values(describe_id=None))

    async def ask_for_burst(self, run_id: str, steps: int, layers: Sequence[int] = ()) -> str:
        """Have the agent told to sample every step for a while; returns that command's id."""
        asked = uuid.uuid4().hex
        burst = {"id": asked, "steps": steps, "layers": list(layers)}
        await self.change(run_id, burst=burst)
        return asked

    async def burst_taken(self, run_id: str, asked: str) -> None:
        """The agent has heard of the burst of this id; a later one stands."""
        run = await self.get(run_id, lock=True)
        if run is not None and run["burst"] is not None and run["burst"]["id"] == asked:
            await self.change(run_id, burst=None)

    async def page(
        self, wanted: RunFilter, *, before: tuple[float, str] | None, limit: int
    ) -> Sequence[RowMapping]:
        """Runs newest first, past a cursor."""
        query = select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        for condition in _conditions(wanted):
            query = query.where(condition)
        if before is not None:
            query = query.where(tuple_(runs.c.created_at, runs.c.id) < tuple_(*before))
        return (await self._session.execute(query)).mappings().all()

    async def add_layout(self, run_id: str, layout: Layout) -> None:
        """Declare a layout; again is the same."""
        series = [[one.stack, one.site, one.quantity, one.n] for one in layout.series]
        statement = insert(self._session, layouts).values(
            run_id=run_id, hash=layout.hash, series=series
        )
        await self._session.execute(statement.on_conflict_do_nothing())

    async def layouts_of(self, run_id: str) -> dict[str, Layout]:
        """Every layout of a run, by hash."""
        query = select(layouts.c.hash, layouts.c.series).where(layouts.c.run_id == run_id)
        rows = (await self._session.execute(query)).all()
        return {found: Layout(tuple(Series(*one) for one in series)) for found, series in rows}

    async def marks_of(self, run_id: str) -> Sequence[RowMapping]:
        """The marks of a run's ranks, lowest rank first."""
        query = select(marks).where(marks.c.run_id == run_id).order_by(marks.c.rank)
        return (await self._session.execute(query)).mappings().all()

    async def open_alerts(self, ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """Alerts that are not resolved, counted by run and severity."""
        query = (
            select(alerts.c.run_id, alerts.c.severity, func.count())
            .where(alerts.c.run_id.in_(ids), alerts.c.status != "resolved")
            .group_by(alerts.c.run_id, alerts.c.severity)
        )
        counts: dict[str, dict[str, int]] = {}
        for run_id, severity, count in (await self._session.execute(query)).all():
            counts.setdefault(run_id, {})[severity] = count
        return counts

    async def silent_since(self, moment: float) -> Sequence[RowMapping]:
        """Runs that count as running and were last heard of before a moment."""
        query = select(runs).where(runs.c.status == "running", runs.c.last_seen < moment)
        return (await self._session.execute(query)).mappings().all()


def _conditions(wanted: RunFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.project is not None:
        conditions.append(runs.c.project == wanted.project)
    if wanted.status is not None:
        conditions.append(runs.c.status == wanted.status)
    if wanted.tag is not None:
        conditions.append(runs.c.tag_index.contains(f"\n{wanted.tag}\n", autoescape=True))
    for word in (wanted.search or "").lower().split():
        places = (runs.c.name, runs.c.project, runs.c.tag_index, runs.c.architecture, runs.c.id)
        conditions.append(
            or_(*(func.lower(place).contains(word, autoescape=True) for place in places))
        )
    return conditions


def tag_index(tags: Sequence[str]) -> str:
    r"""Tags framed by newlines, so that one LIKE finds a whole tag on either database."""
    return "".join(f"\n{tag}\n" for tag in tags)
