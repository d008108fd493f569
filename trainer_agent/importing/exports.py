"""Evenkeel's own exports, Parquet and CSV, as a recording."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer_agent.importing.recording import Recording, RecordingError, Values, recording
from wire import ABSENT, Series

INDEX_COLUMNS = ("step", "time")
# Sites of an export that were not measured, and their quantities.
DERIVED = {
    "innovation": (
        "variance",
        "correlation",
        "gradient",
        "attention",
        "feed_forward",
        "attention_logits",
        "attention_bits",
        "feed_forward_bits",
        "updates",
        "weights",
        "weight_gradients",
    ),
    "alignment": ("attention", "feed_forward", "block"),
}


def is_export_header(names: Sequence[str]) -> bool:
    """Whether a table with these columns is an export: step, time, then series by their keys."""
    series = names[len(INDEX_COLUMNS) :]
    return tuple(names[:2]) == INDEX_COLUMNS and all(name.count("/") >= 2 for name in series)


def read_parquet(path: Path) -> Recording:
    """A Parquet export: a column a series, a list where it is over depth.

    Raises:
        RecordingError: if pyarrow is not installed, or the file is no such export.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise RecordingError(
            "pyarrow is not installed, which reads Parquet; pip install pyarrow"
        ) from error
    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RecordingError(f"{path} is no whole Parquet file: {reason}; copy it again") from error
    if not is_export_header(table.column_names):
        raise RecordingError(
            f"{path} is no export of evenkeel, whose columns are step, time and series; "
            "write other tables as CSV"
        )
    columns = {name: _matrix(table.column(name)) for name in table.column_names}
    steps, times = (columns.pop(name)[:, 0] for name in INDEX_COLUMNS)
    series = {name: _float32(values) for name, values in columns.items()}
    return _recording(path, steps, times, series)


def recording_of_export(
    path: Path, head: Sequence[str], lines: Sequence[tuple[int, Sequence[str]]]
) -> Recording:
    """A CSV export: a column a series, ``key[0]``, ``key[1]``, … where it is over depth.

    Args:
        path: the file, for its errors.
        head: names of the columns.
        lines: number and cells of each line; an empty cell is an absent value.

    Raises:
        RecordingError: if a cell is no number, or there are no lines.
    """
    table = np.empty((len(lines), len(head)))
    empty = np.array([[not cell for cell in cells] for _, cells in lines]).reshape(table.shape)
    for row, (number, cells) in zip(table, lines, strict=True):
        for at, cell in enumerate(cells):
            try:
                row[at] = float(cell) if cell else np.nan
            except ValueError as error:
                raise RecordingError(
                    f"{path}, line {number}: {cell!r} in {head[at]!r} is no number"
                ) from error
    if not np.isfinite(table[:, 0]).all():
        raise RecordingError(f"{path} has a line without a step")
    columns: dict[str, list[int]] = {}
    for at, name in enumerate(head):  # an export lists the layers of a series in their order
        columns.setdefault(re.sub(r"\[\d+\]$", "", name), []).append(at)
    series = {
        name: np.where(empty[:, at], ABSENT, _float32(table[:, at]))
        for name, at in columns.items()
        if name not in INDEX_COLUMNS
    }
    return _recording(path, table[:, 0], table[:, 1], series)


def _matrix(column: Any) -> NDArray[Any]:
    flat = column.combine_chunks()
    values = flat.flatten() if hasattr(flat, "flatten") else flat
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def _recording(
    path: Path, steps: NDArray[Any], times: NDArray[Any], columns: Mapping[str, Values]
) -> Recording:
    # A server derives these of what was measured, and of an imported run again.
    measured = {name: values for name, values in columns.items() if not _is_derived(name)}
    series = {_series(name, values.shape[1]): values for name, values in measured.items()}
    return recording(path, steps.astype(np.int64), times.astype(np.float64), series)


def _is_derived(name: str) -> bool:
    stack, site, quantity = name.split("/", 2)
    return bool(stack) and quantity in DERIVED.get(site, ())


def _series(name: str, n: int) -> Series:
    stack, site, quantity = name.split("/", 2)
    return Series(stack, site, quantity, n)


def _float32(values: NDArray[Any]) -> Values:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
