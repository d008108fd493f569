"""The agent's own health: data it lost, hooks that never fired, failures it guarded."""

from __future__ import annotations

from dataclasses import replace

from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats
from wire import Health

SETTLED = 3  # sampled steps; a hook fires on the first or not at all
NAMED = 5  # hooks named in a message
TITLES = {
    "spool": "Frames were lost",
    "guard": "The agent met a failure",
    "hooks": "Hooks that never fire",
}

SILENT = Advice(
    "Call trainer_agent.watch before torch.compile: a hook set after compilation never fires."
)
DROPPED = Advice(
    "The agent's spool was full: check that the server is reachable from the job and keeps up, or "
    "measure less often: trainer_agent.watch(..., every=10)."
)
FAILED = Advice("Training goes on untouched. The reason names the layer to look at.")


def agent_health(observation: Observation, stats: RunningStats) -> list[Finding]:
    """Frames lost and failures guarded since the last sampled step, and silent hooks."""
    health = observation.health
    if health is None:
        return []
    findings = [
        _dropped(observation, health.dropped, stats.lost[0]),
        _failures(observation, health, stats.lost[1]),
    ]
    if stats.samples > SETTLED:
        findings.append(_silent(observation, health))
    return [finding for finding in findings if finding is not None]


def silence(step: int, seconds: float) -> Finding:
    """The finding of a run that should send frames and has not for so many seconds."""
    return Finding(
        rule="lost_contact",
        severity="warning",
        title="No word from the run",
        message=f"The run last spoke at step {step}, {seconds:.0f} seconds ago, and never said it "
        "was finished.",
        advice=Advice(
            "Look whether the job still runs and still reaches this server. What it measured "
            "meanwhile waits in its spool and is sent when it is back."
        ),
        step=step,
        site="agent",
        quantity="silence",
        measured=seconds,
        unit="seconds",
        badness=seconds,
    )


def _dropped(observation: Observation, dropped: int, lost: int) -> Finding | None:
    if lost <= 0:
        return None
    text = f"The agent gave up {lost} frames, {dropped} in all: its spool was full."
    return _finding(observation, text, DROPPED, site="spool", value=lost)


def _failures(observation: Observation, health: Health, new: int) -> Finding | None:
    if new <= 0:
        return None
    text = f"The agent guarded {health.failures} failures; the first: {health.first_failure}."
    finding = _finding(observation, text, FAILED, site="guard", value=health.failures)
    return replace(finding, severity="info")  # training was not touched


def _silent(observation: Observation, health: Health) -> Finding | None:
    if not health.silent:
        return None
    names = ", ".join(health.silent[:NAMED]) + (", …" if len(health.silent) > NAMED else "")
    text = f"Hooks were set and have never fired, {len(health.silent)} of them: {names}."
    return _finding(observation, text, SILENT, site="hooks", value=len(health.silent))


def _finding(
    observation: Observation, text: str, advice: Advice, *, site: str, value: float
) -> Finding:
    return Finding(
        rule="agent_health",
        severity="warning",
        title=TITLES[site],
        message=text,
        advice=advice,
        step=observation.step,
        site=site,
        quantity="health",
        measured=float(value),
        badness=float(value),
    )
