"""Which step is sampled next, and what that has cost: budget, fixed interval, bursts, ranks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trainer_agent.bursts import Bursts
from trainer_agent.capture.probe import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.device_clock import DeviceClock
from trainer_agent.options import Options
from trainer_agent.ranks import Agreement, Ranks
from trainer_agent.sampling import Sampler
from trainer_agent.spending import SpendingClock
from wire import Command


class Pacing:
    """Keeps a job's sampling within its budget. Every method belongs to the training thread.

    Attributes:
        sampler: decides by interval.
        bursts: what the server asks for beyond it.
        clock: how the job's time splits.
        own: whether the step that runs is sampled by interval, not for a burst alone.
        on_word: told of what rank 0 has told all processes, in each at the end of the same step.
    """

    def __init__(
        self, options: Options, probe: Probe, recorder: Recorder, ranks: Ranks | None
    ) -> None:
        self._probe, self._recorder, self._ranks = probe, recorder, ranks
        self.sampler = Sampler(options.every, options.overhead)
        alone = ranks is None
        self.bursts = Bursts(overhead=options.overhead if alone and options.every is None else None)
        self._grant = options.overhead
        self.clock, self._device_clock = SpendingClock(recorder), DeviceClock()
        self.own = True
        self._samples = 0
        self._last_s = 0.0
        self._told: set[str] = set()
        self.on_word: Callable[[Command], None] = lambda _command: None

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
        agreement = self._agreement() if sampled else None
        if sampled and self.own:
            self._choose_interval(cost_s, agreement)
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

        Called by rank 0, in any thread. A burst is cut to what the budget allows: no process
        could end it earlier than the others.
        """
        if self._ranks is None or not self._agreeing:
            return False
        if command.id in self._told:
            return True
        self._told.add(command.id)
        if command.kind == "burst":
            steps = self.bursts.affordable(command.steps, self._grant, self._last_s)
            command = msgspec.structs.replace(command, steps=steps)
        self._ranks.board.say(msgspec.json.encode(command))
        return True

    @property
    def _agreeing(self) -> bool:
        """Whether every sample brings word from the other processes."""
        return self._ranks is not None and self._ranks.together and not self.sampler.fixed

    def _agreement(self) -> Agreement | None:
        """What was agreed two samples ago: all have heard it by now, and nobody waits."""
        self._samples += 1
        if self._ranks is None or not self._agreeing or self._samples < 3:
            return None
        agreement = self._ranks.agreed_with(self._samples - 3)
        if agreement is not None:
            for word in self._ranks.board.words(agreement.words):
                self.on_word(msgspec.json.decode(word, type=Command))
        return agreement

    def _choose_interval(self, cost_s: float, agreement: Agreement | None) -> None:
        cost_s = self._last_s = max(cost_s, self._device_clock.extra_s())
        if self._agreeing:
            self.sampler.sample_over(cost_s, agreement.every if agreement else self.sampler.every)
            return
        self.sampler.sample_over(cost_s)
        if self.sampler.impatient and self._probe.drop_costliest_site():
            self.sampler.cheaper()
