"""Evenkeel's own exports, Parquet and CSV, as a recording."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer_agent.importing.recording import Recording, ReplayError, Values, recording
from wire import Series

OWN = ("step", "time")


def read_parquet(path: Path) -> Recording:
    """A Parquet export: a column a series, a list where it is over depth.

    Raises:
        ReplayError: if pyarrow is not installed, or the file is no such export.
    """
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise ReplayError(
            "pyarrow is not installed, which reads Parquet; pip install pyarrow"
        ) from error
    try:
        table = read_table(path)
    except ArrowInvalid as error:
        raise ReplayError(f"{path} is no Parquet file: {error}") from error
    columns = {name: _matrix(table.column(name), table.num_rows) for name in table.column_names}
    return _recording(path, columns)


def _matrix(column: Any, rows: int) -> NDArray[Any]:
    flat = column.combine_chunks()
    values = flat.flatten() if hasattr(flat, "flatten") else flat
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(rows, -1)


def read_csv(path: Path) -> Recording:
    """A CSV export: a column a series, ``key[0]``, ``key[1]``, … where it is over depth.

    Raises:
        ReplayError: if the file is no such export.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(head))
    except ValueError as error:
        raise ReplayError(f"{path} is no export of evenkeel: {error}") from error
    columns: dict[str, list[int]] = {}
    for at, name in enumerate(head):
        columns.setdefault(re.sub(r"\[\d+\]$", "", name), []).append(at)
    return _recording(path, {name: table[:, at] for name, at in columns.items()})


def _recording(path: Path, columns: Mapping[str, NDArray[Any]]) -> Recording:
    absent = [name for name in OWN if name not in columns]
    foreign = [name for name in columns if name not in OWN and name.count("/") < 2]
    if absent or foreign:
        what = f"has no column {absent[0]!r}" if absent else f"has a column {foreign[0]!r}"
        raise ReplayError(f"{path} {what}; an export of evenkeel is expected")
    series = {
        _series(name, values.shape[1]): _float32(values)
        for name, values in columns.items()
        if name not in OWN
    }
    steps = columns["step"][:, 0].astype(np.int64)
    return recording(steps, columns["time"][:, 0].astype(np.float64), series)


def _series(name: str, n: int) -> Series:
    stack, site, quantity = name.split("/", 2)
    return Series(stack, site, quantity, n)


def _float32(values: NDArray[Any]) -> Values:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
