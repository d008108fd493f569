"""Which step is sampled next, and what that has cost: budget, fixed interval, bursts, ranks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trainer_agent.capture.hook_manager import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.distributed import Processes
from trainer_agent.options import Options
from trainer_agent.sampling.bursts import Bursts
from trainer_agent.sampling.overhead import DeviceClock, SpendingClock
from trainer_agent.sampling.sampler import Sampler
from wire import Command


class Pacing:
    """Keeps a job's sampling within its budget. Every method belongs to the training thread.

    Attributes:
        sampler: decides by interval.
        bursts: what the server asks for beyond it.
        clock: how the job's time splits.
        own: whether the step that runs is sampled by interval, not for a burst alone.
        on_word: told of what rank 0 has told all processes, in each at the end of the same step.
        on_lost: told, on rank 0, of what it has told them and none of them does.
    """

    def __init__(
        self, options: Options, probe: Probe, recorder: Recorder, processes: Processes
    ) -> None:
        self._probe, self._recorder, self._processes = probe, recorder, processes
        self.sampler = Sampler(options.every, options.overhead)
        alone = processes.size == 1
        self.bursts = Bursts(overhead=options.overhead if alone and options.every is None else None)
        self._grant = options.overhead
        self.clock, self._device_clock = SpendingClock(recorder), DeviceClock()
        self.own = True
        self._last_s = 0.0
        self._told: set[str] = set()
        self.on_word: Callable[[Command], None] = lambda _command: None
        self.on_lost: Callable[[Command], None] = lambda _command: None

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
        agreed_every = self._apply_commands(step - 1, sampled=sampled)
        if sampled and self.own:
            self._choose_interval(cost_s, agreed_every)
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

    def tell_all(self, command: Command) -> bool:
        """Have all processes of a job obey at the same step; False where they agree on nothing.

        Called by rank 0, in any thread. A burst is cut to what a budget allows: no process
        could end it earlier than the others.
        """
        if not self._processes.synchronized:
            return False
        if command.id in self._told:
            return True
        if command.kind == "burst" and not self.sampler.fixed:
            steps = self.bursts.affordable(command.steps, self._grant, self._last_s)
            command = msgspec.structs.replace(command, steps=steps)
        if not self._processes.broadcast(msgspec.json.encode(command)):
            return False
        self._told.add(command.id)
        return True

    def leave(self) -> None:
        """Keep the other processes from doing anything more that this one would miss."""
        self._processes.leave()

    @property
    def over(self) -> bool:
        """Whether this process measures no more and owes the others nothing."""
        return not (self._processes.synchronized or self._processes.is_sender or self.promised)

    @property
    def promised(self) -> bool:
        """Whether the others have done what this process is to do at a step that comes."""
        return self._processes.command_pending

    def _apply_commands(self, step: int, *, sampled: bool) -> int | None:
        """Apply rank 0's commands that are due now; returns the interval agreed on, if any."""
        outcome = self._processes.end_step(step, sampled=sampled)
        for command in outcome.due:
            self.on_word(msgspec.json.decode(command, type=Command))
        for command in outcome.undelivered:
            self.on_lost(msgspec.json.decode(command, type=Command))
        return outcome.every

    def _choose_interval(self, cost_s: float, agreed_every: int | None) -> None:
        cost_s = self._last_s = max(cost_s, self._device_clock.extra_s())
        if self._processes.synchronized and not self.sampler.fixed:
            every = self.sampler.every if agreed_every is None else agreed_every
            self.sampler.sample_over(cost_s, every)
            return
        self.sampler.sample_over(cost_s)
        if self.sampler.impatient and self._probe.drop_costliest_site():
            self.sampler.cheaper()
