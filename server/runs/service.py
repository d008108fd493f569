"""List, show and edit runs, and ask their agents for more."""

from __future__ import annotations

from typing import Any

import msgspec

from server import cursor as cursors
from server.database import Database
from server.errors import Conflict, InvalidField
from server.runs import serializers
from server.runs.repository import RunFilter, RunRepository, tag_index
from server.runs.rows import RunRow
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
    database: Database, filters: RunFilter, *, cursor: str | None, limit: int
) -> RunPage:
    """One page of runs, newest first."""
    async with database.reading() as session:
        repository = RunRepository(session)
        # One row more than is shown tells whether there is another page.
        rows = await repository.page(filters, before=cursors.decode(cursor), limit=limit + 1)
        counts = await repository.open_alerts([run.id for run in rows])
    shown = rows[:limit]
    more = len(rows) > limit
    return RunPage(
        runs=[serializers.summary(run, counts.get(run.id, {})) for run in shown],
        next_cursor=cursors.encode(shown[-1].created_at, shown[-1].id) if more else None,
    )


async def summary_of(database: Database, run_id: str) -> RunSummary | None:
    """A run's line in the list, or None if there is no such run."""
    async with database.reading() as session:
        repository = RunRepository(session)
        run = await repository.get(run_id)
        if run is None:
            return None
        counts = await repository.open_alerts([run_id])
    return serializers.summary(run, counts.get(run_id, {}))


async def show(database: Database, run: RunRow) -> RunDetail:
    """Everything about a run that is already loaded."""
    async with database.reading() as session:
        repository = RunRepository(session)
        counts = await repository.open_alerts([run.id])
        ranks = await repository.ranks_of(run.id)
        return serializers.detail(
            run,
            counts.get(run.id, {}),
            layouts=await repository.layouts_of(run.id),
            ranks=ranks,
            unjudged=await repository.unjudged(ranks[0]) if ranks else 0,
            revision_steps=await repository.revision_steps(run.id),
        )


async def edit(database: Database, run: RunRow, change: RunChange) -> RunDetail:
    """Rename a run or replace its tags."""
    values: dict[str, Any] = {}
    if change.name is not None:
        values["name"] = change.name
    if change.tags is not None:
        require_tags(change.tags)
        values |= {"tags": change.tags, "tag_index": tag_index(change.tags)}
    if values:
        async with database.writing() as session:
            await RunRepository(session).change(run.id, **values)
    return await show(database, msgspec.structs.replace(run, **values))


async def ask_for_description(database: Database, run: RunRow) -> DescriptionAsked:
    """Ask the run's agent to describe its model again, with its next answer.

    Raises:
        Conflict: if the run has ended, so that no agent would receive it.
    """
    _require_running(run)
    async with database.writing() as session:
        return DescriptionAsked(id=await RunRepository(session).ask_for_description(run.id))


async def ask_for_burst(database: Database, run: RunRow, request: BurstRequest) -> BurstAsked:
    """Ask the run's agent to sample every step for a while.

    Raises:
        Conflict: if the run has ended, so that no agent would receive it.
    """
    _require_running(run)
    async with database.writing() as session:
        repository = RunRepository(session)
        command_id = await repository.ask_for_burst(run.id, request.steps, request.layers)
    return BurstAsked(id=command_id)


def _require_running(run: RunRow) -> None:
    if run.ended is not None:
        raise Conflict(
            f"run {run.id} has ended",
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
