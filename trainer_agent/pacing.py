"""Which step is sampled next, and what that has cost: budget, fixed interval, bursts, ranks."""

from __future__ import annotations

from trainer_agent.bursts import Bursts
from trainer_agent.capture.probe import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.device_clock import DeviceClock
from trainer_agent.options import Options
from trainer_agent.ranks import Ranks
from trainer_agent.sampling import Sampler
from trainer_agent.spending import SpendingClock


class Pacing:
    """Keeps a job's sampling within its budget. Every method belongs to the training thread.

    Attributes:
        sampler: decides by interval.
        bursts: what the server asks for beyond it.
        clock: how the job's time splits.
        own: whether the step that runs is sampled by interval, not for a burst alone.
    """

    def __init__(
        self, options: Options, probe: Probe, recorder: Recorder, ranks: Ranks | None
    ) -> None:
        self._probe, self._recorder, self._ranks = probe, recorder, ranks
        self.sampler = Sampler(options.every, options.overhead)
        self.bursts = Bursts(
            overhead=None if self.sampler.fixed else options.overhead, alone=ranks is None
        )
        self.clock, self._device_clock = SpendingClock(recorder), DeviceClock()
        self.own = True
        self._samples = 0

    def steps_over(self, steps: int, ended: float) -> None:
        """Note that so many steps have passed since the last call."""
        self.sampler.steps_over(steps, *self.clock.step_over(ended))

    def next_step(self, step: int, ended: float, *, sampled: bool) -> bool:
        """Whether step number `step`, the next to run, is sampled.

        Args:
            step: its number.
            ended: when the one before it ended.
            sampled: whether that one was.
        """
        cost_s = self.clock.work_over(ended)
        if sampled and self.own:
            self._choose_interval(cost_s)
        elif sampled:
            self.bursts.spent(cost_s)
        self.own = self.sampler.sampled(step)
        in_burst = self.bursts.wants_next()
        wanted = self.own or in_burst
        self._recorder.only = None if self.own else self.bursts.layers
        if self._recorder.accumulator.device.type == "cuda":
            self._device_clock.step_over(sampled=sampled, next_sampled=wanted)
        return wanted

    def burst_layers(self) -> dict[str, float]:
        """How many layers a burst is about, for its frames: 0 for all of them."""
        return {} if self.own else {"burst_layers": float(len(self.bursts.layers or ()))}

    def _choose_interval(self, cost_s: float) -> None:
        cost_s = max(cost_s, self._device_clock.extra_s())
        self._samples += 1
        if self._ranks is not None and self._ranks.together and not self.sampler.fixed:
            # What was agreed two samples ago: all have heard it by now, and nobody waits.
            agreed = self._ranks.interval_after(self._samples - 3) if self._samples > 2 else None
            self.sampler.sample_over(cost_s, agreed or self.sampler.every)
            return
        self.sampler.sample_over(cost_s)
        if self.sampler.impatient and self._probe.drop_costliest_site():
            self.sampler.cheaper()
