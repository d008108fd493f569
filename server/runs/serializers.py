"""From rows to the JSON form of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from server.database import Row
from server.runs.rewinds import superseded_by_rank
from server.runs.schemas import (
    AlertCounts,
    HealthInfo,
    RunDetail,
    RunSummary,
    SeriesInfo,
    StackInfo,
)
from wire import Layout

PLACEMENT_TITLES = {"pre": "Pre-LN", "post": "Post-LN"}


def summary(row: Row, counts: Mapping[str, int]) -> RunSummary:
    """One line of the run list."""
    return RunSummary(**_summary_fields(row, counts))


def detail(
    row: Row,
    counts: Mapping[str, int],
    *,
    layouts: Mapping[str, Layout],
    marks: Sequence[Row],
    revision_steps: list[int],
) -> RunDetail:
    """Everything about one run."""
    layout = layouts[row["layout_hash"]]
    return RunDetail(
        **_summary_fields(row, counts),
        config=row["config"],
        layout=[_series(one) for one in layout],
        stacks=stack_sizes(row["stacks"], layout),
        missing=row["missing"],
        notes=row["notes"],
        health={str(mark["rank"]): _health(mark) for mark in marks},
        first_step=row["first_step"],
        agent_version=row["agent_version"],
        started_at=row["started_at"],
        end_reason=row["end_reason"],
        revision_steps=revision_steps,
        superseded=superseded_by_rank(marks),
    )


def stack_sizes(described: Row, layout: Layout) -> dict[str, StackInfo]:
    """Sizes from the model's spec, or as far as the layout alone shows them."""
    measured = {
        one.stack: StackInfo(n_layers=one.n - 1, d_model=None, seq_len=None)
        for one in layout
        if one.stack and one.site == "stream" and one.quantity == "variance"
    }
    return {**measured, **{name: StackInfo(**sizes) for name, sizes in described.items()}}


def _summary_fields(row: Row, counts: Mapping[str, int]) -> dict[str, Any]:
    shared = ("id", "project", "name", "status", "tags", "created_at", "last_seen", "last_step")
    more = ("last_loss", "architecture", "placement", "family", "n_params", "frames")
    return {
        **{name: row[name] for name in shared + more},
        "sparkline": _line(row),
        "alerts": AlertCounts(critical=counts.get("critical", 0), warning=counts.get("warning", 0)),
    }


def _line(row: Row) -> list[float | None]:
    """The kept points; the last one gives way to the newest loss, so that the end is current."""
    values: list[float | None] = list(row["sparkline"]["values"])
    newest = row["last_loss"]
    if values and newest is not None:
        values[-1] = newest if math.isfinite(newest) else None
    return values


def _series(one: Any) -> SeriesInfo:
    return SeriesInfo(key=one.key, stack=one.stack, site=one.site, quantity=one.quantity, n=one.n)


def _health(mark: Row) -> HealthInfo:
    return HealthInfo(**mark["health"], durable=mark["durable"])
