"""Measurements as a Parquet file; the one module that imports pyarrow."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from server.storage.measurements import Measured


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
    """A file whose written bytes are taken away at once, while its positions go on counting.

    A Parquet footer holds positions from the start of the file.
    """

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
        """What was written since the last call."""
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
