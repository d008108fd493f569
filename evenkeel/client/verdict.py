"""How a run is, in words: what is wrong, since when, where, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Answer = dict[str, Any]
HEALTHY, SICK, UNKNOWN = "healthy", "needs you", "nothing measured yet"
ENDED_BADLY = ("failed", "diverged")
BY_HAND = "KeyboardInterrupt"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: "critical", "warning" or "info".
        since: step of its first sign, or None.
        layers: first and last layer, or None where it has none.
        title, text, advice: in words.
        url: of the run's page at that step.
    """

    severity: str
    since: int | None
    layers: tuple[int, int] | None
    title: str
    text: str
    advice: str
    url: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a server says of a run.

    Attributes:
        state: ``"healthy"``, ``"needs you"`` or ``"nothing measured yet"``.
        step, loss: the newest.
        findings: what is wrong, the worst first.
        departures: sentences on blocks that left what they did before.
        notes: what could not be measured or predicted.
    """

    run: str
    status: str
    state: str
    step: int | None
    loss: float | None
    findings: tuple[Finding, ...]
    departures: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.4g}"
        at = "" if self.step is None else f", step {self.step}"
        lines = [f"{self.run}: {self.state} ({self.status}{at}{loss})"]
        for finding in self.findings:
            since = "" if finding.since is None else f" from step {finding.since}"
            lines += [f"\n{finding.severity}: {finding.title}{since}", finding.text]
            lines += [f"What to do: {finding.advice}"] if finding.advice else []
            lines.append(finding.url)
        lines += [f"- {text}" for text in self.departures]
        if not self.findings and self.state == HEALTHY:
            lines.append("No alert is open.")
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def verdict_of(run: Answer, incidents: list[Answer], ahead: Answer | None, page: str) -> Verdict:
    """Return the verdict from a run's detail, its open incidents and `/ahead`'s answer.

    `page` is the address of the run's page.
    """
    ranks = {"critical": 0, "warning": 1}
    worst_first = sorted(incidents, key=lambda each: ranks.get(each["severity"], 2))
    departures = [] if ahead is None else [each["text"] for each in ahead["departures"]]
    failed = run["status"] in ENDED_BADLY and not run["end_reason"].startswith(BY_HAND)
    sick = failed or any(each["severity"] in ranks for each in incidents)
    state = UNKNOWN if run["last_step"] is None else SICK if sick else HEALTHY
    missing = [f"{each['where']}: {each['what']} ({each['why']})" for each in run["missing"]]
    loss = run["last_loss"]
    return Verdict(
        run=f"{run['project']}/{run['name']}",
        status=f"{run['status']}: {run['end_reason']}".rstrip(": "),
        state=state,
        step=run["last_step"],
        loss=loss if isinstance(loss, float) else None,
        findings=tuple(_finding(each, page) for each in worst_first),
        departures=tuple(departures),
        notes=(*run["notes"], *missing),
    )


def _finding(incident: Answer, page: str) -> Finding:
    first, last = incident["first_layer"], incident["last_layer"]
    return Finding(
        severity=incident["severity"],
        since=incident["first_step"],
        layers=None if first is None else (first, last),
        title=incident["title"],
        text=incident["message"],
        advice=incident["advice"]["text"],
        url=f"{page}?step={incident['first_step']}",
    )
