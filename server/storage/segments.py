"""A block: consecutive frames of one rank and layout, turned into one row for each series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.database import Row
from server.storage.codec import pack, pack_series
from wire import Layout

ROLLUP = 16  # frames in one cell of the coarser level
SUMMARIES = ("min", "mean", "max")


def segment_row(rows: Sequence[Row]) -> dict[str, Any]:
    """The row of `blocks` for these frames, ascending in `seq`."""
    steps = np.array([row["step"] for row in rows])
    return {
        "run_id": rows[0]["run_id"],
        "rank": rows[0]["rank"],
        "first_seq": rows[0]["seq"],
        "last_seq": rows[-1]["seq"],
        "first_step": int(steps.min()),
        "last_step": int(steps.max()),
        "layout": rows[0]["layout"],
        "n": len(rows),
        "seqs": pack(np.array([row["seq"] for row in rows]), "<i8"),
        "steps": pack(steps, "<i8"),
        "times": pack(np.array([row["time"] for row in rows]), "<f8"),
    }


def series_rows(rows: Sequence[Row], layout: Layout) -> list[dict[str, Any]]:
    """The rows of `chunks` for these frames: every series, whole and coarse."""
    values = np.stack([np.frombuffer(row["values"], dtype="<f4") for row in rows])
    where = {key: rows[0][key] for key in ("run_id", "rank")} | {"first_seq": rows[0]["seq"]}
    found = []
    for key, part in layout.slices.items():
        series = values[:, part]
        found.append({**where, "series": key, "level": 0, "data": pack_series(series)})
        coarse = np.concatenate(list(rolled_up(series).values()), axis=1)
        found.append({**where, "series": key, "level": ROLLUP, "data": pack_series(coarse)})
    return found


def rolled_up(series: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Least, mean and greatest of every `ROLLUP` steps; (steps, n) becomes (cells, n).

    NaN is passed over unless a cell holds nothing else; an infinite value stays one.
    """
    cells = [series[start : start + ROLLUP] for start in range(0, len(series), ROLLUP)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell of NaN alone is NaN
        return {
            "min": np.stack([np.nanmin(cell, axis=0) for cell in cells]),
            "mean": np.stack([np.nanmean(cell, axis=0, dtype=np.float64) for cell in cells]).astype(
                np.float32
            ),
            "max": np.stack([np.nanmax(cell, axis=0) for cell in cells]),
        }


def leading_layout(rows: Sequence[Row]) -> Sequence[Row]:
    """The leading frames that share the first one's layout."""
    for index, row in enumerate(rows):
        if row["layout"] != rows[0]["layout"]:
            return rows[:index]
    return rows
