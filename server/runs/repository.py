"""SQL over `runs`, `layouts` and `marks`."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.database import fetch_all, fetch_first, insert
from server.runs.layout_cache import LayoutCache, batched
from server.runs.rows import Burst, RankRow, RunRow
from server.tables import alerts, frames, layouts, marks, predictions, runs
from wire import Layout, Series

HASHES_A_QUERY = 500  # each is a parameter, of which databases take so many
decoded_layouts = LayoutCache()


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list asks for; None means any."""

    search: str | None = None
    project: str | None = None
    status: str | None = None
    tag: str | None = None


class RunRepository:
    """Runs, their layouts and their ranks."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, run_id: str, *, lock: bool = False) -> RunRow | None:
        """The run, or None; with `lock`, no other transaction changes it before this one ends."""
        query = select(runs).where(runs.c.id == run_id)
        # SQLite knows no row locks and needs none: its writers queue in `Database.writing`.
        return await fetch_first(self._session, query.with_for_update() if lock else query, RunRow)

    async def get_many(self, ids: Sequence[str]) -> list[RunRow]:
        """The runs of these ids, in the order of their ids, locked against other writers."""
        query = select(runs).where(runs.c.id.in_(ids)).order_by(runs.c.id).with_for_update()
        return await fetch_all(self._session, query, RunRow)

    async def add(self, run: RunRow) -> bool:
        """Whether the run was new."""
        columns = msgspec.structs.asdict(run)
        statement = insert(self._session, runs).values(**columns).on_conflict_do_nothing()
        added = await self._session.execute(statement.returning(runs.c.id))
        return added.first() is not None

    async def change(self, run_id: str, **values: Any) -> None:
        """Set columns of one run."""
        await self._session.execute(update(runs).where(runs.c.id == run_id).values(**values))

    async def ask_for_description(self, run_id: str) -> str:
        """Command the agent to describe its model; returns the command's id."""
        command_id = uuid.uuid4().hex
        await self.change(run_id, describe_id=command_id)
        return command_id

    async def clear_description(self, run_id: str, command_id: str) -> None:
        """The command of this id is done; a later one stands."""
        done = (runs.c.id == run_id, runs.c.describe_id == command_id)
        await self._session.execute(update(runs).where(*done).values(describe_id=None))

    async def ask_for_burst(self, run_id: str, steps: int, layers: Sequence[int] = ()) -> str:
        """Command the agent to sample every step for a while; returns the command's id."""
        burst = Burst(id=uuid.uuid4().hex, steps=steps, layers=list(layers))
        await self.change(run_id, burst=burst)
        return burst["id"]

    async def clear_burst(self, run_id: str, command_id: str) -> None:
        """The agent has received the burst of this id; a later one stands."""
        run = await self.get(run_id, lock=True)
        if run is not None and run.burst is not None and run.burst["id"] == command_id:
            await self.change(run_id, burst=None)

    async def page(
        self, filters: RunFilter, *, before: tuple[float, str] | None, limit: int
    ) -> list[RunRow]:
        """Runs newest first, past a cursor."""
        query = select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        query = query.where(*_conditions(filters))
        # By time and id: an offset would repeat or miss runs while others are added.
        if before is not None:
            query = query.where(tuple_(runs.c.created_at, runs.c.id) < tuple_(*before))
        return await fetch_all(self._session, query, RunRow)

    async def add_layout(self, run_id: str, layout: Layout) -> None:
        """Declare a layout; again is the same."""
        columns = [[series.stack, series.site, series.quantity, series.n] for series in layout]
        statement = insert(self._session, layouts).values(
            run_id=run_id, hash=layout.hash, series=columns
        )
        await self._session.execute(statement.on_conflict_do_nothing())

    async def layouts_of(
        self, run_id: str, hashes: Collection[str] | None = None
    ) -> dict[str, Layout]:
        """The run's layouts by hash: every one when `hashes` is None, else those of these.

        A layout is what its hash says, so each is read and decoded once in a process.
        """
        declared = await self._declared(run_id, hashes)
        decoded = {name: layout for name in declared if (layout := decoded_layouts.get(name))}
        unread = [name for name in declared if name not in decoded]
        for part in batched(unread, HASHES_A_QUERY):
            decoded |= await self._decode(run_id, part)
        return {name: decoded[name] for name in declared}

    async def _declared(self, run_id: str, hashes: Collection[str] | None) -> list[str]:
        query = select(layouts.c.hash).where(layouts.c.run_id == run_id)
        if hashes is None:
            return list((await self._session.execute(query)).scalars())
        declared: list[str] = []
        for part in batched(hashes, HASHES_A_QUERY):
            rows = await self._session.execute(query.where(layouts.c.hash.in_(part)))
            declared += rows.scalars()
        return declared

    async def _decode(self, run_id: str, hashes: Sequence[str]) -> dict[str, Layout]:
        query = select(layouts.c.hash, layouts.c.series).where(
            layouts.c.run_id == run_id, layouts.c.hash.in_(hashes)
        )
        rows = (await self._session.execute(query)).all()
        decoded = {name: Layout(tuple(Series(*row) for row in columns)) for name, columns in rows}
        for name, layout in decoded.items():
            decoded_layouts.put(name, layout)
        return decoded

    async def ranks_of(self, run_id: str) -> list[RankRow]:
        """The run's ranks, lowest first."""
        query = select(marks).where(marks.c.run_id == run_id).order_by(marks.c.rank)
        return await fetch_all(self._session, query, RankRow)

    async def unjudged(self, rank: RankRow) -> int:
        """How many durable frames of a rank the alert rules have not judged yet."""
        query = select(func.count()).where(
            frames.c.run_id == rank.run_id,
            frames.c.rank == rank.rank,
            frames.c.seq > rank.diagnosed,
            frames.c.seq <= rank.durable,
        )
        return int((await self._session.execute(query)).scalar_one())

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

    async def revision_steps(self, run_id: str) -> list[int]:
        """The steps at which the run's model was described, ascending."""
        query = select(predictions.c.step).where(predictions.c.run_id == run_id)
        return list((await self._session.execute(query.order_by(predictions.c.step))).scalars())

    async def silent_since(self, moment: float) -> list[RunRow]:
        """Runs that count as running and sent nothing since a moment."""
        query = select(runs).where(runs.c.status == "running", runs.c.last_seen < moment)
        return await fetch_all(self._session, query, RunRow)


def _conditions(filters: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.project is not None:
        conditions.append(runs.c.project == filters.project)
    if filters.status is not None:
        conditions.append(runs.c.status == filters.status)
    if filters.tag is not None:
        conditions.append(runs.c.tag_index.contains(f"\n{filters.tag}\n", autoescape=True))
    for word in (filters.search or "").lower().split():
        columns = (runs.c.name, runs.c.project, runs.c.tag_index, runs.c.architecture, runs.c.id)
        conditions.append(
            or_(*(func.lower(column).contains(word, autoescape=True) for column in columns))
        )
    return conditions


def tag_index(tags: Sequence[str]) -> str:
    r"""Tags framed by newlines, so that one LIKE finds a complete tag on either database."""
    return "".join(f"\n{tag}\n" for tag in tags)
