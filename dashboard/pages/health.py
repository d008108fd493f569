"""What the telemetry reports of itself: frames lost, hooks that never fired, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dash import html

from dashboard.api_types import MissingPart, RankHealth, RunDetail
from dashboard.display.numbers import format_count

MAX_OVERHEAD = 0.05  # share of the job's time from which on the page warns
RESUMED = "the run went on from an earlier checkpoint"


class HealthNote(NamedTuple):
    """One thing the telemetry has to say."""

    text: str
    is_bad: bool
    explanation: str


def health_line(run: RunDetail) -> html.Div:
    """One line, quiet while all is well."""
    notes = [
        html.Span(note.text, className="bad" if note.is_bad else "", title=note.explanation)
        for note in health_notes(run)
    ]
    return html.Div(notes, className="health")


def health_notes(run: RunDetail) -> list[HealthNote]:
    """The notes of all ranks together, most general first."""
    ranks = list(run.health.values())
    if not ranks:
        return [HealthNote("no word from the agent yet", False, "")]
    return [
        HealthNote(f"{format_count(run.frames)} frames", False, "frames stored on this server"),
        *_sampling(ranks),
        *_delivery(ranks),
        *_bursts(ranks),
        *_unmeasured(ranks),
        *_failures(ranks),
        *(HealthNote(_twice(*span), False, RESUMED) for span in run.superseded),
        *_uncovered(run.missing),
    ]


def _sampling(ranks: Sequence[RankHealth]) -> list[HealthNote]:
    overhead = max(rank.overhead for rank in ranks)
    every = max(rank.every for rank in ranks)
    interval = "every step" if every == 1 else f"every {every} steps"
    cost = "share of the job's time the agent took"
    return [
        HealthNote(interval, False, "sampling interval"),
        HealthNote(f"{overhead:.1%} overhead", overhead > MAX_OVERHEAD, cost),
    ]


def _delivery(ranks: Sequence[RankHealth]) -> list[HealthNote]:
    dropped = sum(rank.dropped for rank in ranks)
    resent = sum(rank.resent for rank in ranks)
    lost = "none lost" if dropped == 0 else f"{format_count(dropped)} frames lost"
    return [
        HealthNote(
            lost,
            dropped > 0,
            "lost: the agent's queue or spool was full, or the server refused them",
        ),
        HealthNote(f"{resent} resent", False, "frames sent more than once; stored once"),
    ]


def _bursts(ranks: Sequence[RankHealth]) -> list[HealthNote]:
    left = max(rank.burst_left for rank in ranks)
    closer_look = HealthNote(
        f"burst: every step, {left} to go", False, "a closer look after an alert"
    )
    cut_short = [
        HealthNote("burst cut short", False, rank.burst_note) for rank in ranks if rank.burst_note
    ]
    return [*([closer_look] if left else []), *cut_short[:1]]


def _unmeasured(ranks: Sequence[RankHealth]) -> list[HealthNote]:
    notes = []
    sites = sorted({site for rank in ranks for site in rank.dropped_sites})
    if sites:
        noun = "site" if len(sites) == 1 else "sites"
        notes.append(HealthNote(f"{len(sites)} {noun} not measured", True, "\n".join(sites)))
    silent = {place for rank in ranks for place in rank.silent}
    stopped = {place for rank in ranks for place in rank.stopped}
    for places, what, is_bad in (silent, "not measured", False), (stopped, "stopped", True):
        if places:
            noun = "place" if len(places) == 1 else "places"
            names = ", ".join(sorted(places))
            notes.append(HealthNote(f"{len(places)} {noun} {what}", is_bad, names))
    sentences = dict.fromkeys(sentence for rank in ranks for sentence in rank.notes)
    return [*notes, *(HealthNote(sentence, False, "said by the agent") for sentence in sentences)]


def _failures(ranks: Sequence[RankHealth]) -> list[HealthNote]:
    failures = sum(rank.failures for rank in ranks)
    if not failures:
        return []
    first = next((rank.first_failure for rank in ranks if rank.first_failure), "")
    return [HealthNote(f"{failures} failures in the agent", True, first)]


def _twice(first: int, last: int) -> str:
    steps = f"step {format_count(first)} was"
    if last != first:
        steps = f"steps {format_count(first)}–{format_count(last)} were"
    return f"{steps} recorded twice; the later ones are shown"


def _uncovered(missing: Sequence[MissingPart]) -> list[HealthNote]:
    if not missing:
        return []
    noun = "part" if len(missing) == 1 else "parts"
    reasons = "\n".join(f"{part.where}: {part.what}, {part.why}" for part in missing)
    return [HealthNote(f"{len(missing)} {noun} of the model without theory", True, reasons)]
