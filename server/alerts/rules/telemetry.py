"""The agent's own health: data it lost, places it no longer measures, failures it guarded."""

from __future__ import annotations

from dataclasses import replace

from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import RunningStats
from wire import Health

NAMED = 5  # places named in a message
TITLES = {
    "spool": "Frames were lost",
    "guard": "The agent met a failure",
    "hooks": "Places are no longer measured",
}

STOPPED = Advice(
    "Modules that are compiled, replaced or frozen while the job runs are not seen any more. Call "
    "trainer_agent.watch after such a change, and before torch.compile."
)
DROPPED = Advice(
    "Frames are lost where the agent's queue or spool is full, or where the server refuses them. "
    "Check that the server is reachable from the job and keeps up, and what the job's log says of "
    "refused frames; or measure less often: trainer_agent.watch(..., every=10)."
)
FAILED = Advice("Training goes on untouched. The reason names the layer to look at.")


def agent_health(observation: Observation, stats: RunningStats) -> list[Finding]:
    """Frames lost and failures guarded since the last sampled step, and places that stopped.

    A place that was never measured is no finding: the run's page says so, with the reason.
    """
    health = observation.health
    if health is None:
        return []
    findings = [
        _dropped(observation, health.dropped, stats.lost[0]),
        _failures(observation, health, stats.lost[1]),
        _stopped(observation, health),
    ]
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
    text = f"The agent gave up {lost} frames, {dropped} in all."
    return _finding(observation, text, DROPPED, site="spool", value=lost)


def _failures(observation: Observation, health: Health, new: int) -> Finding | None:
    if new <= 0:
        return None
    text = f"The agent guarded {health.failures} failures; the first: {health.first_failure}."
    finding = _finding(observation, text, FAILED, site="guard", value=health.failures)
    return replace(finding, severity="info")  # training was not touched


def _stopped(observation: Observation, health: Health) -> Finding | None:
    stopped = health.stopped
    if not stopped:
        return None
    names = ", ".join(stopped[:NAMED]) + (", …" if len(stopped) > NAMED else "")
    count = f"{len(stopped)} places that were" if len(stopped) > 1 else "One place that was"
    text = f"{count} measured before have had no value for many samples: {names}."
    return _finding(observation, text, STOPPED, site="hooks", value=len(stopped))


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
