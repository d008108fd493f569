"""From what a sampled step left on the device to a sample on its way to the server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.capture.hook_manager import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics.accumulator import SCALE_SLOT, Sums
from trainer_agent.capture.statistics.columns import COUNT
from trainer_agent.capture.statistics.finalise import frame_values, silent_places, unscaled
from trainer_agent.delivery.messages import Content, Sample
from trainer_agent.distributed import Processes, SampleHeader
from trainer_agent.job.loss_scale import LossScale
from trainer_agent.job.optimizer import OptimizerView
from trainer_agent.model.plan import OWN_SCALARS, Plan
from trainer_agent.options import Options, package_version
from trainer_agent.sampling.controller import Pacing
from wire import RunDeclaration

Scalar = float | Tensor
Whole = Callable[[], tuple[Sums, dict[str, float]]]


@dataclass(slots=True)
class _Held:
    """What the training thread takes of a step: everything that a later step may change."""

    step: int
    plan: Plan
    numbers: dict[str, float | None]  # None: it lies among the sums' scalars, in this order
    scale: float | None  # None: likewise, in its own slot
    loss_given: bool
    overhead: float
    every: int
    take: Callable[[], Sums]


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of an agent that a sample is made of."""

    probe: Probe
    recorder: Recorder
    optimizer: OptimizerView
    scale: LossScale
    pacing: Pacing


class Framing:
    """Makes the sample of a step, and remembers which layouts and names a run has had.

    Attributes:
        silent: places whose hooks have never fired.
    """

    def __init__(self, options: Options, sources: Sources, processes: Processes) -> None:
        self.silent: tuple[str, ...] = ()
        self._options, self._sources, self._processes = options, sources, processes
        self._layouts: dict[tuple[Plan, tuple[str, ...]], RunDeclaration] = {}
        self._names: dict[str, None] = dict.fromkeys(OWN_SCALARS)
        self._fired: NDArray[np.bool_] | None = None
        self._started_at = time.time()

    def sample(self, step: int, given: Mapping[str, Scalar | None]) -> Sample:
        """Take the step's sums off the device without waiting.

        As little as can be happens here. The code of a function that runs once a step has to be
        read from memory, so that each costs the training thread some microseconds.

        Args:
            step: its number.
            given: what the job said of it.
        """
        sources, processes = self._sources, self._processes
        accumulator, sampler = sources.recorder.accumulator, sources.pacing.sampler
        scalars = {**sources.optimizer.scalars(), **given}
        held = _Held(
            step,
            sources.probe.plan,
            {
                name: accumulator.scalar(slot, value)
                for slot, (name, value) in enumerate(scalars.items())
            },
            accumulator.scalar(SCALE_SLOT, sources.scale.take()),
            scalars.get("loss") is not None,
            sources.pacing.clock.share_since_frame(),
            0 if processes.size == 1 or sampler.fixed else sampler.wish(),
            accumulator.take(),  # after the scalars, which travel with it
        )
        whole: Whole = partial(self._whole, held)
        if processes.size > 1:  # else the sender's thread does it, which is charged as a whole
            whole = processes.in_background(partial(sources.pacing.clock.charged, whole))
        return Sample(step, time.time(), partial(self._content, held, whole))

    def _whole(self, held: _Held) -> tuple[Sums, dict[str, float]]:
        """Sums and scalars of the whole job; in a background thread."""
        header = SampleHeader(held.step, held.plan, held.every, held.loss_given)
        readers = {
            name: partial(_read, slot, number)
            for slot, (name, number) in enumerate(held.numbers.items())
        }
        return self._processes.reduce(header, partial(_unscaled, held), readers)

    def _content(self, held: _Held, whole: Whole) -> Content:
        """Declaration and values of the frame; in the sender thread."""
        sums, scalars = whole()
        plan = self._processes.global_plan(held.plan)
        self._note_silence(plan, sums)
        # In an order that never changes, whatever else the job comes to say.
        self._names.update(dict.fromkeys(scalars))
        numbers = [scalars.get(name, math.nan) for name in self._names]
        declaration = self._declaration(plan, tuple(self._names))
        return declaration, frame_values(plan, sums, [*numbers, held.overhead])

    def _note_silence(self, plan: Plan, sums: Sums) -> None:
        fired = sums.moments[:, COUNT] > 0
        if self._fired is not None and len(self._fired) == len(fired):
            fired |= self._fired
        self._fired = fired
        self.silent = () if fired.all() else silent_places(plan, fired)

    def _declaration(self, plan: Plan, names: tuple[str, ...]) -> RunDeclaration:
        known = self._layouts.get((plan, names))
        if known is None:
            options = self._options
            known = RunDeclaration(
                project=options.project,
                name=options.run,
                layout=plan.layout(names).validate(),
                tags=options.tags,
                config=dict(options.config),
                started_at=self._started_at,
                agent_version=package_version(),
            )
            self._layouts[plan, names] = known
        return known


def _read(slot: int, number: float | None, sums: Sums) -> float:
    return float(sums.scalars[slot]) if number is None else number


def _unscaled(held: _Held) -> Sums:
    sums = held.take()
    factor = _read(SCALE_SLOT, held.scale, sums)
    return sums if math.isnan(factor) else unscaled(held.plan, sums, factor)
