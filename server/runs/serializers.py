"""From rows to the JSON form of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from server.runs.rewinds import superseded_of_run
from server.runs.rows import RankRow, RunRow
from server.runs.schemas import (
    AlertCounts,
    HealthInfo,
    RunDetail,
    RunSummary,
    SeriesInfo,
    StackInfo,
)
from server.schemas import MissingInfo
from wire import Layout, Series

SUMMARY_COLUMNS = (
    "id", "project", "name", "status", "tags", "created_at", "last_seen", "last_step",
    "last_loss", "architecture", "placement", "family", "n_params", "frames",
)  # fmt: skip


def summary(run: RunRow, counts: Mapping[str, int]) -> RunSummary:
    """A run's line in the list; `counts` are its unresolved alerts by severity."""
    return RunSummary(**_summary_fields(run, counts))


def detail(
    run: RunRow,
    counts: Mapping[str, int],
    *,
    layouts: Mapping[str, Layout],
    ranks: Sequence[RankRow],
    revision_steps: list[int],
    unjudged: int,
) -> RunDetail:
    """Everything about one run except its measurements."""
    layout = layouts[run.layout_hash]  # the newest one that was declared
    return RunDetail(
        **_summary_fields(run, counts),
        config=run.config,
        layout=[_series(series) for series in layout],
        stacks=stack_sizes(run.stacks, layout),
        missing=[MissingInfo(**part) for part in run.missing],
        notes=run.notes,
        health={str(rank.rank): _health(rank) for rank in ranks},
        first_step=run.first_step,
        agent_version=run.agent_version,
        started_at=run.started_at,
        end_reason=run.end_reason,
        revision_steps=revision_steps,
        superseded=superseded_of_run(ranks),
        unjudged=unjudged,
    )


def stack_sizes(described: Mapping[str, Mapping[str, int]], layout: Layout) -> dict[str, StackInfo]:
    """Sizes from the model's spec, or as far as the layout alone shows them."""
    measured = {
        series.stack: StackInfo(n_layers=series.n - 1, d_model=None, seq_len=None)
        for series in layout
        if series.stack and series.site == "stream" and series.quantity == "variance"
    }
    return {**measured, **{stack: StackInfo(**sizes) for stack, sizes in described.items()}}


def _summary_fields(run: RunRow, counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        **{name: getattr(run, name) for name in SUMMARY_COLUMNS},
        "sparkline": _line(run),
        "alerts": AlertCounts(critical=counts.get("critical", 0), warning=counts.get("warning", 0)),
    }


def _line(run: RunRow) -> list[float | None]:
    """The stored points, the last of them replaced by the newest loss: the end is current."""
    values = list(run.sparkline["values"])
    if values and run.last_loss is not None:
        values[-1] = run.last_loss if math.isfinite(run.last_loss) else None
    return values


def _series(series: Series) -> SeriesInfo:
    return SeriesInfo(
        key=series.key, stack=series.stack, site=series.site, quantity=series.quantity, n=series.n
    )


def _health(rank: RankRow) -> HealthInfo:
    return HealthInfo(**rank.health, durable=rank.durable)
