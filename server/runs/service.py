"""List, show and edit runs."""

from __future__ import annotations

from typing import Any

from server import cursor as cursors
from server.database import Database, Row
from server.errors import Conflict, InvalidField
from server.predictions.repository import PredictionRepository
from server.runs import serializers
from server.runs.repository import RunFilter, RunRepository, tag_index
from server.runs.schemas import (
    BurstAsked,
    BurstRequest,
    DescriptionAsked,
    RunChange,
    RunDetail,
    RunPage,
    RunSummary,
)

MAX_TAG = 100


async def list_runs(
    database: Database, wanted: RunFilter, *, cursor: str | None, limit: int
) -> RunPage:
    """One page of runs, newest first."""
    async with database.reading() as session:
        repository = RunRepository(session)
        rows = await repository.page(wanted, before=cursors.decode(cursor), limit=limit + 1)
        counts = await repository.open_alerts([row["id"] for row in rows])
    shown = rows[:limit]
    more = len(rows) > limit
    return RunPage(
        runs=[serializers.summary(row, counts.get(row["id"], {})) for row in shown],
        next_cursor=cursors.encode(shown[-1]["created_at"], shown[-1]["id"]) if more else None,
    )


async def summary_of(database: Database, run_id: str) -> RunSummary | None:
    """A run's line in the list, or None if there is no such run."""
    async with database.reading() as session:
        repository = RunRepository(session)
        row = await repository.get(run_id)
        if row is None:
            return None
        counts = await repository.open_alerts([run_id])
    return serializers.summary(row, counts.get(run_id, {}))


async def show(database: Database, row: Row) -> RunDetail:
    """Everything about a run that is already loaded."""
    run_id: str = row["id"]
    async with database.reading() as session:
        repository = RunRepository(session)
        counts = await repository.open_alerts([run_id])
        return serializers.detail(
            row,
            counts.get(run_id, {}),
            layouts=await repository.layouts_of(run_id),
            marks=await repository.marks_of(run_id),
            revision_steps=await PredictionRepository(session).steps(run_id),
        )


async def edit(database: Database, row: Row, change: RunChange) -> RunDetail:
    """Rename a run or replace its tags."""
    values: dict[str, Any] = {}
    if change.name is not None:
        values["name"] = change.name
    if change.tags is not None:
        require_tags(change.tags)
        values |= {"tags": change.tags, "tag_index": tag_index(change.tags)}
    if values:
        async with database.writing() as session:
            await RunRepository(session).change(row["id"], **values)
    return await show(database, {**row, **values})


async def ask_for_description(database: Database, row: Row) -> DescriptionAsked:
    """Ask the run's agent to describe its model again, with its next answer.

    Raises:
        Conflict: if the run has ended and nobody would hear of it.
    """
    _require_going_on(row)
    async with database.writing() as session:
        return DescriptionAsked(id=await RunRepository(session).ask_for_description(row["id"]))


async def ask_for_burst(database: Database, row: Row, wanted: BurstRequest) -> BurstAsked:
    """Ask the run's agent to sample every step for a while.

    Raises:
        Conflict: if the run has ended and nobody would hear of it.
    """
    _require_going_on(row)
    async with database.writing() as session:
        repository = RunRepository(session)
        asked = await repository.ask_for_burst(row["id"], wanted.steps, wanted.layers)
    return BurstAsked(id=asked)


def _require_going_on(row: Row) -> None:
    if row["ended"] is not None:
        raise Conflict(
            f"run {row['id']} has ended",
            field="run_id",
            fix="go on with it first: watch(..., resume=run_id)",
        )


def require_tags(tags: list[str] | tuple[str, ...]) -> None:
    """Raise `InvalidField` for a tag that is empty, too long or of several lines."""
    for index, tag in enumerate(tags):
        if not tag.strip() or len(tag) > MAX_TAG or "\n" in tag or "\0" in tag:
            raise InvalidField(
                f"tag {tag[:40]!r} is not one line of 1 to {MAX_TAG} characters",
                field=f"tags[{index}]",
                fix=f"use one line of 1 to {MAX_TAG} characters",
            )
