"""The run in detail: what the theory does not cover, the user's settings, telemetry by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html

from dashboard import phrases
from dashboard.api_types import MissingPart, RankHealth, RunDetail
from dashboard.display.numbers import format_count

# A resumed job numbers its frames by its start time, past all numbers of the job before it: such
# a number counts nothing that a reader would recognise.
LARGEST_COUNT = 2**40


def details(run: RunDetail) -> list[Any]:
    """Cards of the details tab."""
    return [
        _card("Where the theory says nothing", _missing(run.missing)),
        _card("Notes", [html.P(note) for note in run.notes] or [_none("No notes.")]),
        _card("Telemetry by rank", [_table(_rank_rows(run.health))]),
        _card("Settings given to the run", [_table(_rows(run.config))]),
        _card("Run", [_table(_facts(run)), _export(run.id)]),
    ]


def _card(title: str, children: Sequence[Any]) -> html.Section:
    return html.Section([html.H2(title), *children], className="card")


def _none(text: str) -> html.P:
    return html.P(text, className="quiet")


def _missing(missing: Sequence[MissingPart]) -> list[Any]:
    if not missing:
        return [_none("Every part of this model is covered.")]
    return [html.P([html.Code(part.where), f" {part.what}: {part.why}."]) for part in missing]


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in values.items()]


def _rank_rows(health: Mapping[str, RankHealth]) -> list[tuple[str, str]]:
    return [(f"rank {rank}", "; ".join(_report(report))) for rank, report in health.items()]


def _report(rank: RankHealth) -> list[str]:
    """One rank's report, part by part; what did not happen is left out."""
    parts = [
        (rank.durable < LARGEST_COUNT, _stored(rank)),
        (rank.dropped, f"{rank.dropped} frames lost"),
        (rank.resent, f"{rank.resent} frames resent"),
        (rank.failures, f"{rank.failures} failures"),
        (rank.first_failure, f"the first: {rank.first_failure}"),
        (rank.stopped, f"measured before and not any more: {', '.join(rank.stopped)}"),
        (rank.silent, f"not measured yet: {', '.join(rank.silent)}"),
        (rank.notes, "; ".join(rank.notes)),
        (rank.dropped_sites, f"not measured: {', '.join(rank.dropped_sites)}"),
    ]
    interval = "every step" if rank.every == 1 else f"every {rank.every} steps"
    return [f"samples {interval}", *(text for happened, text in parts if happened)]


def _stored(rank: RankHealth) -> str:
    return f"stored up to frame {format_count(rank.durable)}"


def _facts(run: RunDetail) -> list[tuple[str, str]]:
    stacks = [
        f"{name}: {stack.n_layers} layers, d_model {stack.d_model}, sequence {stack.seq_len}"
        for name, stack in run.stacks.items()
    ]
    return [
        ("id", run.id),
        ("family", run.family),
        ("stacks", "; ".join(stacks)),
        ("agent", run.agent_version),
        ("created", phrases.age(run.created_at)),
        ("weights described at", ", ".join(f"step {step}" for step in run.revision_steps)),
    ]


def _table(rows: Sequence[tuple[str, str]]) -> Any:
    if not rows:
        return _none("Nothing given.")
    return html.Table(
        html.Tbody([html.Tr([html.Th(name), html.Td(value)]) for name, value in rows])
    )


def _export(run_id: str) -> html.P:
    return html.P(
        [
            html.A(f"Every frame as {label}", href=f"/api/v1/runs/{run_id}/export?format={name}")
            for label, name in (("CSV", "csv"), ("Parquet", "parquet"))
        ],
        className="exports",
    )
