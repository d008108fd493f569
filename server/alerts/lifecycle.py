"""From findings to alerts: what opens one, what changes it, what ends it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from server.alerts.rules import RULES, Finding, Hold, Key, Severity, Verdict
from server.alerts.rules.finding import SEVERITIES

WORSENED = 1.5  # times the published badness: worth an update
PAUSE = 5  # judged steps between two updates of one alert
UPDATE_EVERY = 20  # judged steps, so that the last step of a lasting alert stays near the truth

_BUILT_IN = {rule.name: Hold(rule.opens_after, rule.clears_after) for rule in RULES}
Kind = Literal["opened", "escalated", "worsened", "persisted", "resolved"]


@dataclass(frozen=True, slots=True)
class Track:
    """The recent past of one key: a rule must hold, and be clear, for some steps in a row.

    Attributes:
        holds: judged steps in a row at which it has held.
        clear: judged steps in a row at which it has not.
        open: whether an alert is open.
        published: the badness that the alert shows, the worst so far.
        severity: the severity that the alert shows.
        since: judged steps since the alert last changed.
        began: the step from which it has held in a row.
    """

    holds: int = 0
    clear: int = 0
    open: bool = False
    published: float = 0.0
    severity: Severity = "info"
    since: int = 0
    began: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of an alert.

    Attributes:
        kind: ``"escalated"`` has become more severe, ``"worsened"`` has a worse value of the same
            severity, ``"persisted"`` still holds and is no worse.
        key: what the alert is about.
        step: the step judged.
        finding: the judgement; None when the alert is resolved.
        began: of an alert that opens, the step from which its rule has held in a row.
    """

    kind: Kind
    key: Key
    step: int
    finding: Finding | None = None
    began: int = 0


Tracks = Mapping[Key, Track]


def advance(tracks: Tracks, verdict: Verdict) -> tuple[dict[Key, Track], list[Transition]]:
    """The tracks and transitions after one more step."""
    worst = _worst(verdict.findings)
    after: dict[Key, Track] = {}
    transitions: list[Transition] = []
    for key in sorted({*tracks, *worst}):
        track, transition = _advance_key(tracks.get(key, Track()), key, worst.get(key), verdict)
        if transition is not None:
            transitions.append(transition)
        if track.open or track.holds:  # a key that is closed and quiet has no past to remember
            after[key] = track
    return after, transitions


def _worst(findings: Iterable[Finding]) -> dict[Key, Finding]:
    worst: dict[Key, Finding] = {}
    for finding in findings:
        other = worst.get(finding.key)
        if other is None or _rank(finding) > _rank(other):
            worst[finding.key] = finding
    return worst


def _rank(finding: Finding) -> tuple[int, float]:
    return SEVERITIES.index(finding.severity), finding.badness


def _advance_key(
    track: Track, key: Key, finding: Finding | None, verdict: Verdict
) -> tuple[Track, Transition | None]:
    hold = _BUILT_IN.get(key.rule) or verdict.holds.get(key.rule)
    if hold is None:  # a user's rule that was deleted, switched off or is not for this run any more
        return Track(), Transition("resolved", key, verdict.stats.step) if track.open else None
    if finding is not None:
        return _holding(track, finding, hold)
    if not verdict.judges(key):
        return track, None
    return _clearing(track, key, hold, verdict.stats.step)


def _holding(track: Track, finding: Finding, hold: Hold) -> tuple[Track, Transition | None]:
    began = track.began if track.holds else finding.step
    track = replace(track, holds=track.holds + 1, clear=0, since=track.since + 1, began=began)
    kind = _kind(track, finding, hold)
    if kind is None:
        return track, None
    if kind != "persisted":  # the alert goes on showing the worst finding
        track = replace(track, open=True, published=finding.badness, severity=finding.severity)
    return replace(track, since=0), Transition(kind, finding.key, finding.step, finding, began)


def _kind(track: Track, finding: Finding, hold: Hold) -> Kind | None:
    if not track.open:
        return "opened" if track.holds >= hold.opens_after else None
    if SEVERITIES.index(finding.severity) > SEVERITIES.index(track.severity):
        return "escalated"
    due = track.since >= UPDATE_EVERY
    if finding.severity == track.severity and finding.badness > track.published:
        much = finding.badness > WORSENED * track.published and track.since >= PAUSE
        return "worsened" if due or much else None
    return "persisted" if due else None


def _clearing(track: Track, key: Key, hold: Hold, step: int) -> tuple[Track, Transition | None]:
    track = replace(track, holds=0, clear=track.clear + 1, since=track.since + 1)
    if track.open and track.clear >= hold.clears_after:
        return Track(), Transition("resolved", key, step)
    return track, None
