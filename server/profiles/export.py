"""``/runs/{run_id}/export``: one row a step, a column a series."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.responses import StreamingResponse

from server.app_state import State
from server.database import Database
from server.errors import NotInstalled
from server.profiles.derived.model_facts import model_facts
from server.profiles.derived.names import derived_series
from server.profiles.derived.reading import read_derived
from server.runs.dependencies import ReadableRun
from server.runs.repository import RunRepository
from server.storage.measurements import Measured, read, recorded_steps, sampled_steps, widths
from wire import ABSENT, is_absent

router = APIRouter(tags=["measurements"])

Format = Literal["csv", "parquet"]

DERIVED_SITES = frozenset({"innovation", "alignment"})
STEPS_A_PART = 256  # also rows in a Parquet row group
MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


@router.get("/runs/{run_id}/export", response_class=StreamingResponse)
async def export_run(
    run: ReadableRun,
    state: State,
    file_format: Annotated[Format, Query(alias="format")] = "parquet",
) -> StreamingResponse:
    """Every step that has values, as Parquet (a list column a series) or CSV (a column a layer)."""
    body = encoded(measurements(state.database, run.id), file_format)
    name = f"{run.id}.{file_format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(body, media_type=MEDIA[file_format], headers=headers)


def encoded(parts: AsyncIterator[Measured], file_format: Format) -> AsyncIterator[bytes]:
    """The bytes of the file.

    Raises:
        NotInstalled: for Parquet without pyarrow.
    """
    if file_format == "csv":
        return as_csv(parts)
    try:
        from server.profiles.parquet import as_parquet  # loads pyarrow, which is optional
    except ModuleNotFoundError as error:
        raise NotInstalled(
            "this server cannot write Parquet: pyarrow is not installed",
            field="format",
            fix="install evenkeel[export] where the server runs, or ask for format=csv",
        ) from error
    return as_parquet(parts)


async def measurements(database: Database, run_id: str) -> AsyncIterator[Measured]:
    """The run in parts of so many steps, ascending; one empty part if it has none.

    At steps that were not sampled only the scalars given to `agent.step` have values.

    Innovations and alignments stand behind what was measured; what else is derived follows from
    these and the measured series.
    """
    async with database.reading() as session:
        layouts = await RunRepository(session).layouts_of(run_id)
        steps = await recorded_steps(session, run_id)
        sampled = await sampled_steps(session, run_id)
    series = [
        each
        for each in derived_series(widths(layouts, None)).values()
        if each.site in DERIVED_SITES and each.quantity == each.followed
    ]
    facts = await model_facts(database, run_id)
    for start in range(0, max(len(steps), 1), STEPS_A_PART):
        part = steps[start : start + STEPS_A_PART]
        # A session a part: a slow download must not hold a connection between parts.
        async with database.reading() as session:
            measured = await read(session, run_id, layouts, part)
            at = np.isin(part, sampled)
            of_samples = await read_derived(
                session, run_id, layouts, part[at], series=series, facts=facts
            )
        derived = {key: _spread(values, at) for key, values in of_samples.items()}
        yield replace(measured, series={**measured.series, **derived})


def _spread(values: NDArray[np.float32], at: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of some steps among all of them, (steps, n); absent at the others."""
    rows = np.full((len(at), values.shape[1]), ABSENT, np.float32)
    rows[at] = values
    return rows


async def as_csv(parts: AsyncIterator[Measured]) -> AsyncIterator[bytes]:
    """Lines of text; a vector's layers are columns ``key[0]``, ``key[1]``, …"""
    first = True
    async for part in parts:
        if first:
            yield _csv_head(part).encode()
            first = False
        yield _csv_lines(part).encode()


def _csv_head(part: Measured) -> str:
    columns = ["step", "time"]
    for key, values in part.series.items():
        n = values.shape[1]
        columns += [key] if n == 1 else [f"{key}[{layer}]" for layer in range(n)]
    return ",".join(map(_quoted, columns)) + "\r\n"


def _csv_lines(part: Measured) -> str:
    table = np.concatenate([np.empty((len(part.steps), 0), np.float32), *part.series.values()], 1)
    rows = zip(part.steps.tolist(), part.times.tolist(), table, is_absent(table), strict=True)
    lines = [
        ",".join([str(step), repr(time), *_cells(values, absent)])
        for step, time, values, absent in rows
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _cells(values: NDArray[np.float32], absent: NDArray[np.bool_]) -> list[str]:
    """A row's values; an absent one is an empty cell, a NaN that was measured reads ``nan``."""
    cells = list(map(str, values))
    for index in np.flatnonzero(absent):
        cells[index] = ""
    return cells


def _quoted(name: str) -> str:
    """A header cell; a name from the layout may hold a comma or a quote."""
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name
