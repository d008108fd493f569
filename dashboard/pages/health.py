"""What the telemetry says of itself: lost, late, silent, and what it costs."""

from __future__ import annotations

from typing import Any

from dash import html

from dashboard import formats
from dashboard.api_client import Json

TWICE = "the run went on from an earlier checkpoint"


def health_line(run: Json) -> html.Div:
    """One line, calm when all is well; every loss is said in words."""
    found = findings(run)
    parts = [
        html.Span(text, className="bad" if bad else "", title=title) for text, bad, title in found
    ]
    return html.Div(parts, className="health")


def findings(run: Json) -> list[tuple[str, bool, str]]:
    """(text, is it bad, explanation) for each thing the telemetry has to say."""
    ranks = list((run.get("health") or {}).values())
    if not ranks:
        return [("no word from the agent yet", False, "")]
    total = {
        name: sum(int(one.get(name, 0)) for one in ranks)
        for name in ("dropped", "resent", "failures")
    }
    silent = sorted({name for one in ranks for name in one.get("silent", ())})
    overhead = max(float(one.get("overhead", 0.0)) for one in ranks)
    every = max(int(one.get("every", 1)) for one in ranks)
    lines = [
        (_frames(run), False, "frames stored on this server"),
        ("every step" if every == 1 else f"every {every} steps", False, "sampling interval"),
        (f"{overhead:.1%} overhead", overhead > 0.05, "share of the job's time the agent took"),
        (
            _lost(total["dropped"]),
            total["dropped"] > 0,
            "given up: the agent's spool was full",
        ),
        (f"{total['resent']} resent", False, "frames sent more than once; stored once"),
    ]
    burst = max(int(one.get("burst_left", 0)) for one in ranks)
    if burst:
        lines.append((f"burst: every step, {burst} to go", False, "a closer look after an alert"))
    notes = [one["burst_note"] for one in ranks if one.get("burst_note")]
    if notes:
        lines.append(("burst cut short", False, notes[0]))
    given_up = sorted({site for one in ranks for site in one.get("dropped_sites", ())})
    if given_up:
        sites = "site" if len(given_up) == 1 else "sites"
        lines.append((f"{len(given_up)} {sites} not measured", True, "\n".join(given_up)))
    if silent:
        lines.append((f"{len(silent)} silent hooks", True, ", ".join(silent)))
    if total["failures"]:
        first = next((one["first_failure"] for one in ranks if one.get("first_failure")), "")
        lines.append((f"{total['failures']} failures in the agent", True, first))
    lines += [(_twice(*span), False, TWICE) for span in run.get("superseded") or ()]
    if run.get("missing"):
        lines.append((_uncovered(run["missing"]), True, _reasons(run["missing"])))
    return lines


def _twice(first: int, last: int) -> str:
    steps = f"step {formats.count(first)} was"
    if last != first:
        steps = f"steps {formats.count(first)}–{formats.count(last)} were"
    return f"{steps} recorded twice; the later ones are shown"


def _frames(run: Json) -> str:
    return f"{formats.count(run['frames'])} frames"


def _lost(dropped: int) -> str:
    return "none lost" if dropped == 0 else f"{formats.count(dropped)} frames lost"


def _uncovered(missing: list[Any]) -> str:
    parts = "part" if len(missing) == 1 else "parts"
    return f"{len(missing)} {parts} of the model without theory"


def _reasons(missing: list[Any]) -> str:
    return "\n".join(f"{one['where']}: {one['what']}, {one['why']}" for one in missing)
