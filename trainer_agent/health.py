"""The health of a run's agent, which every request to the server carries."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_manager import HookManager
from trainer_agent.capture.notes import Notes
from trainer_agent.commands.alert_actions import AlertActions
from trainer_agent.distributed import Processes
from trainer_agent.job.resumed_state import ResumedState
from trainer_agent.sampling.controller import SamplingController
from trainer_agent.sampling.framing import Framing
from trainer_agent.sampling.overhead import OverheadMeter
from wire import Health


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Reads the parts of an agent. The sender calls it, and adds what only it knows."""

    guard: Guard
    notes: Notes
    hooks: HookManager
    framing: Framing
    meter: OverheadMeter
    controller: SamplingController
    actions: AlertActions
    processes: Processes
    resumed: ResumedState

    def __call__(self) -> Health:
        """The agent's health, without the counts of frames dropped and sent again."""
        bursts = self.controller.bursts
        return Health(
            failures=self.guard.failures,
            first_failure=self.guard.first_failure,
            silent=self.framing.silent,
            stopped=self.framing.stopped,
            overhead=self.meter.share_since_start(),
            every=self.controller.sampler.every,
            dropped_sites=(*self.hooks.dropped_sites, *self.processes.dropped_sites),
            burst=bursts.last_id,
            burst_left=bursts.left,
            burst_note=bursts.note,
            notes=self.notes.all(),
            wants_alerts=self.actions.subscribed,
            fresh_optimizer_at=self.resumed.lost_at,
        )
