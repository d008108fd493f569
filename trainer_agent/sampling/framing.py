"""From the sums of a sampled step to the values of its frame, in a background thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture.statistics.accumulator import SCALE_SLOT
from trainer_agent.capture.statistics.columns import COUNT
from trainer_agent.capture.statistics.finalise import frame_values, silent_places, unscaled
from trainer_agent.capture.statistics.sums import Sums
from trainer_agent.distributed import Processes, SampleHeader
from trainer_agent.model.plan import OWN_SCALARS, Plan
from trainer_agent.options import Options, package_version
from wire import ABSENT, Layout, RunDeclaration

# A place that so many samples in a row have not reached has stopped: layers that a step may skip
# (LayerDrop, early exits) come back before.
STOPPED_AFTER = 20
# Numbers of a step by name. None: the number lies among the sums' scalars, in the slot that is its
# position here.
Scalars = Mapping[str, float | None]


class Framing:
    """Makes the values of frames, and remembers which layouts and names a run has had.

    Every method but `declaration` and the properties belongs to one thread: the sender's, or that
    in which the processes of a job reduce their samples.
    """

    def __init__(self, options: Options, processes: Processes) -> None:
        self._options, self._processes = options, processes
        self._declarations: dict[tuple[Plan, tuple[str, ...]], RunDeclaration] = {}
        self._names: dict[str, None] = dict.fromkeys(OWN_SCALARS)
        self._last_fired: NDArray[np.int64] | None = None
        self._samples = 0
        self._silent: tuple[str, ...] = ()
        self._stopped: tuple[str, ...] = ()
        self._started_at = time.time()

    @property
    def silent(self) -> tuple[str, ...]:
        """Places that have never been measured."""
        return self._silent

    @property
    def stopped(self) -> tuple[str, ...]:
        """Places that were measured before, and not once in the last samples of the whole model."""
        return self._stopped

    def frame_content(
        self,
        step: int,
        plan: Plan,
        take: Callable[[], Sums],
        *,
        every: int,
        has_loss: bool,
        scalars: Scalars,
        scale: float | None,
        overhead: float,
    ) -> tuple[RunDeclaration, NDArray[np.float32]]:
        """The declaration of a frame's layout, and the frame's values; waits for the device.

        Args:
            step: number of the step.
            plan: the places that this process has measured.
            take: their sums, once they are on the host.
            every: the interval that this process's budget asks for, 0 where it is fixed.
            has_loss: whether the job gave a loss.
            scalars: numbers of the step, by name.
            scale: what the gradients were multiplied by, NaN where by nothing; None: it lies
                among the sums' scalars, in its own slot.
            overhead: the agent's share of the time since the last frame.
        """
        readers = {
            name: partial(_read, slot, number)
            for slot, (name, number) in enumerate(scalars.items())
        }
        header = SampleHeader(step, plan, every, has_loss)
        local_sums = partial(_unscaled, plan, take, scale)
        sums, numbers = self._processes.reduce(header, local_sums, readers)
        plan = self._processes.global_plan(plan)
        if not numbers.get("burst_layers", 0.0) > 0.0:  # a burst may look at some layers alone
            self._note_silence(plan, sums)
        # A layout lists every name that the run has had, in an order that never changes.
        self._names.update(dict.fromkeys(numbers))
        values = [numbers.get(name, float(ABSENT)) for name in self._names]
        declaration = self._declaration(plan, tuple(self._names))
        return declaration, frame_values(plan, sums, [*values, overhead])

    def _note_silence(self, plan: Plan, sums: Sums) -> None:
        fired = sums.moments[:, COUNT] > 0
        if not fired.any():
            return  # an evaluation, or a step of which nothing was seen: no place stands out
        self._samples += 1
        if self._last_fired is None or len(self._last_fired) != len(fired):
            self._last_fired, self._samples = np.zeros(len(fired), np.int64), 1
        self._last_fired[fired] = self._samples
        ever = self._last_fired > 0
        recently = ever & (self._samples - self._last_fired < STOPPED_AFTER)
        self._silent = () if ever.all() else silent_places(plan, ever)
        self._stopped = silent_places(plan, recently | ~ever) if (ever & ~recently).any() else ()

    def declaration(self, layout: Layout) -> RunDeclaration:
        """The declaration of the run with a layout."""
        options = self._options
        return RunDeclaration(
            project=options.project,
            name=options.run,
            layout=layout,
            tags=options.tags,
            config=dict(options.config),
            started_at=self._started_at,
            agent_version=package_version(),
        )

    def _declaration(self, plan: Plan, names: tuple[str, ...]) -> RunDeclaration:
        declaration = self._declarations.get((plan, names))
        if declaration is None:
            declaration = self.declaration(plan.layout(names).validate())
            self._declarations[plan, names] = declaration
        return declaration


def _read(slot: int, number: float | None, sums: Sums) -> float:
    return float(sums.scalars[slot]) if number is None else number


def _unscaled(plan: Plan, take: Callable[[], Sums], scale: float | None) -> Sums:
    sums = take()
    factor = _read(SCALE_SLOT, scale, sums)
    return sums if math.isnan(factor) else unscaled(plan, sums, factor)
