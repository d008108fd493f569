"""The run in detail: what the theory does not cover, the user's settings, the agent's account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html

from dashboard import formats
from dashboard.api_client import Json

COUNTED = 2**40  # numbers below it count frames


def details(run: Json) -> list[Any]:
    """Cards of the details tab."""
    return [
        _card("Where the theory says nothing", _missing(run["missing"])),
        _card("Notes", [html.P(note) for note in run["notes"]] or [_none("No notes.")]),
        _card("Telemetry by rank", [_table(_health_rows(run["health"]))]),
        _card("Settings given to the run", [_table(_rows(run["config"]))]),
        _card("Run", [_table(_facts(run)), _export(run["id"])]),
    ]


def _card(title: str, children: Sequence[Any]) -> html.Section:
    return html.Section([html.H2(title), *children], className="card")


def _none(text: str) -> html.P:
    return html.P(text, className="quiet")


def _missing(missing: Sequence[Mapping[str, str]]) -> list[Any]:
    if not missing:
        return [_none("Every part of this model is covered.")]
    return [html.P([html.Code(one["where"]), f" {one['what']}: {one['why']}."]) for one in missing]


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in values.items()]


def _health_rows(health: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(f"rank {rank}", "; ".join(_account(one))) for rank, one in health.items()]


def _account(health: Mapping[str, Any]) -> list[str]:
    """One rank's account, part by part; what did not happen is left out."""
    every = health.get("every", 1)
    said = {
        "dropped": "{} frames lost",
        "resent": "{} frames resent",
        "failures": "{} failures",
        "first_failure": "the first: {}",
    }
    return [
        "samples every step" if every == 1 else f"samples every {every} steps",
        *_stored(health.get("durable")),
        *(words.format(health[name]) for name, words in said.items() if health.get(name)),
        *([f"silent: {', '.join(health['silent'])}"] if health.get("silent") else []),
        *_given_up(health.get("dropped_sites")),
    ]


def _given_up(sites: list[str] | None) -> list[str]:
    return [f"not measured: {', '.join(sites)}"] if sites else []


def _stored(mark: int | None) -> list[str]:
    # A resumed run's frames are numbered past all that went before, by time: that tells nobody.
    return [f"stored up to frame {formats.count(mark)}"] if (mark or 0) < COUNTED else []


def _facts(run: Json) -> list[tuple[str, str]]:
    stacks = [
        f"{name}: {one['n_layers']} layers, d_model {one['d_model']}, sequence {one['seq_len']}"
        for name, one in run["stacks"].items()
    ]
    return [
        ("id", run["id"]),
        ("family", str(run["family"])),
        ("stacks", "; ".join(stacks)),
        ("agent", str(run["agent_version"])),
        ("created", formats.ago(run["created_at"])),
        ("weights described at", ", ".join(f"step {s}" for s in run["revision_steps"])),
    ]


def _table(rows: Sequence[tuple[str, str]]) -> Any:
    if not rows:
        return _none("Nothing given.")
    return html.Table(html.Tbody([html.Tr([html.Th(a), html.Td(b)]) for a, b in rows]))


def _export(run_id: str) -> html.P:
    return html.P(
        [
            html.A(f"Every frame as {label}", href=f"/api/v1/runs/{run_id}/export?format={name}")
            for label, name in (("CSV", "csv"), ("Parquet", "parquet"))
        ],
        className="exports",
    )
