"""``/runs/{run_id}/export``: every frame, one row a step, a column a series."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from server.access.dependencies import ReadableRun
from server.app_state import State
from server.database import Database
from server.runs.repository import RunRepository
from server.storage.measurements import Measured, read, sampled_steps

router = APIRouter(tags=["measurements"])

ROWS_A_PART = 256
MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


@router.get("/runs/{run_id}/export", response_class=StreamingResponse)
async def export_run(
    run: ReadableRun,
    state: State,
    kind: Annotated[Literal["csv", "parquet"], Query(alias="format")] = "parquet",
) -> StreamingResponse:
    """Every sampled step, as Parquet (a list column a series) or CSV (a column a layer)."""
    pieces = (as_csv if kind == "csv" else as_parquet)(measurements(state.database, run["id"]))
    name = f"{run['id']}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(pieces, media_type=MEDIA[kind], headers=headers)


async def measurements(database: Database, run_id: str) -> AsyncIterator[Measured]:
    """The run in parts of so many steps, ascending; one empty part if it has none."""
    async with database.reading() as session:
        layouts = await RunRepository(session).layouts_of(run_id)
        steps = await sampled_steps(session, run_id)
    for start in range(0, max(len(steps), 1), ROWS_A_PART):
        async with database.reading() as session:
            yield await read(session, run_id, layouts, steps[start : start + ROWS_A_PART])


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
    lines = [
        ",".join([str(step), repr(time), *map(str, row)])
        for step, time, row in zip(part.steps.tolist(), part.times.tolist(), table, strict=True)
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _quoted(name: str) -> str:
    """A header cell; a name from the layout may hold a comma or a quote."""
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name


async def as_parquet(parts: AsyncIterator[Measured]) -> AsyncIterator[bytes]:
    """A Parquet file, a row group at a time."""
    sink = _Sink()
    writer: pq.ParquetWriter | None = None
    async for part in parts:
        table = _table(part)
        writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(table)
        yield sink.drain()
    if writer is not None:
        writer.close()
        yield sink.drain()


class _Sink(io.RawIOBase):
    """A file that only grows: what was written is taken away, its positions go on counting."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def drain(self) -> bytes:
        """What was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _table(part: Measured) -> pa.Table:
    columns: dict[str, pa.Array] = {"step": pa.array(part.steps), "time": pa.array(part.times)}
    for key, values in part.series.items():
        columns[key] = _column(values)
    return pa.table(columns)


def _column(values: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> pa.Array:
    if values.shape[1] == 1:
        return pa.array(values[:, 0])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
