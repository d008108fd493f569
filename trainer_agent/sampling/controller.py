"""Which step is sampled next: by the interval, for a burst, or not at all."""

from __future__ import annotations

from trainer_agent.capture.hook_manager import HookManager
from trainer_agent.capture.recorder import Recorder
from trainer_agent.distributed import Processes
from trainer_agent.options import Options
from trainer_agent.sampling.bursts import Bursts
from trainer_agent.sampling.overhead import DeviceClock, OverheadMeter
from trainer_agent.sampling.sampler import Sampler


class SamplingController:
    """Keeps a job's sampling within its budget. Every method belongs to the training thread.

    Attributes:
        sampler: decides by interval.
        bursts: what the server asks for beyond it.
        in_burst: whether the step that runs is sampled for a burst alone.
    """

    def __init__(
        self,
        options: Options,
        hooks: HookManager,
        recorder: Recorder,
        meter: OverheadMeter,
        processes: Processes,
    ) -> None:
        self._hooks, self._recorder = hooks, recorder
        self._meter, self._processes = meter, processes
        self._overhead = options.overhead
        self.sampler = Sampler(options.every, options.overhead)
        # Processes that ended a burst by their own clocks would sample different steps.
        bounded = processes.size == 1 and options.every is None
        self.bursts = Bursts(overhead=options.overhead if bounded else None)
        self._device_clock = DeviceClock()
        self.in_burst = False
        self._layers: frozenset[int] | None = None
        self._cost_s = 0.0

    def end_steps(self, steps: int, ended: float) -> None:
        """Count steps; the last of them ended then."""
        self.sampler.end_steps(steps, *self._meter.end_step(ended))

    def next_step(
        self, step: int, cost_s: float, agreed_every: int | None, *, sampled: bool
    ) -> bool:
        """Whether step number `step`, the next to run, is sampled.

        Args:
            step: its number.
            cost_s: what the agent took for the step before it, if that was sampled.
            agreed_every: the interval that the processes have agreed on, or None.
            sampled: whether the step before it was.
        """
        if sampled and not self.in_burst:
            self._choose_interval(cost_s, agreed_every)
        elif sampled:
            self.bursts.charge(cost_s)
        by_interval, by_burst = self.sampler.is_sampled(step), self.bursts.wants_next()
        sample_next, self.in_burst = by_interval or by_burst, by_burst and not by_interval
        layers = self.bursts.layers if self.in_burst else None
        if layers != self._layers:
            self._count_layers(layers)
        if self._recorder.accumulator.device.type == "cuda":
            self._device_clock.end_step(sampled=sampled, next_sampled=sample_next)
        return sample_next

    def sample_soon(self) -> None:
        """Sample the step that comes next; processes of one job keep to what they have agreed."""
        if self._processes.size == 1:
            self.sampler.hasten()

    def burst_layers(self) -> dict[str, float]:
        """How many layers a burst is about, for its frames: 0 for all of them."""
        return {"burst_layers": float(len(self.bursts.layers or ()))}

    def affordable(self, steps: int) -> int:
        """How many of a burst's steps a budget allows; called from any thread."""
        if self.sampler.fixed:
            return steps
        return self.bursts.affordable(steps, self._overhead, self._cost_s)

    def proposed_interval(self) -> int:
        """The interval to agree on with other processes, 0 where it is fixed."""
        return 0 if self.sampler.fixed else self.sampler.affordable_interval()

    def _count_layers(self, layers: frozenset[int] | None) -> None:
        self._layers = layers
        self._recorder.count_layers(layers, self._processes.layers_before(self._hooks.plan))

    def _choose_interval(self, cost_s: float, agreed_every: int | None) -> None:
        # On a GPU the training thread's time says little: the sums run on the device.
        cost_s = self._cost_s = max(cost_s, self._device_clock.extra_s())
        if self._processes.synchronized and not self.sampler.fixed:
            every = self.sampler.every if agreed_every is None else agreed_every
            self.sampler.end_sample(cost_s, every)
            return
        self.sampler.end_sample(cost_s)
        if self.sampler.too_costly and self._hooks.drop_costliest_site():
            self.sampler.forget_costs()
