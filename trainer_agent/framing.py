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

from trainer_agent import ranks
from trainer_agent.capture.accumulator import SCALE_SLOT, Sums
from trainer_agent.capture.frame_values import frame_values, silent_places, unscaled
from trainer_agent.capture.moments import COUNT
from trainer_agent.capture.plan import OWN_SCALARS, Plan
from trainer_agent.capture.probe import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.delivery.sender import Sample
from trainer_agent.loss_scale import LossScale
from trainer_agent.optimizer_view import OptimizerView
from trainer_agent.options import Options
from trainer_agent.pacing import Pacing
from trainer_agent.version import package_version
from wire import RunDeclaration

Scalar = float | Tensor
Whole = Callable[[], tuple[Sums, dict[str, float]]]


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

    def __init__(self, options: Options, sources: Sources, together: ranks.Ranks | None) -> None:
        self.silent: tuple[str, ...] = ()
        self._options, self._sources, self._ranks = options, sources, together
        self._layouts: dict[tuple[Plan, tuple[str, ...]], RunDeclaration] = {}
        self._names: dict[str, None] = dict.fromkeys(OWN_SCALARS)
        self._fired: NDArray[np.bool_] | None = None
        self._started_at = time.time()

    def sample(self, step: int, given: Mapping[str, Scalar | None], ended: float) -> Sample:
        """Take the step's sums off the device without waiting.

        Args:
            step: its number.
            given: what the job said of it.
            ended: when it ended, as `time.perf_counter` gave it.
        """
        sources = self._sources
        plan, accumulator = sources.probe.plan, sources.recorder.accumulator
        scalars = self._all_scalars(given)
        readers = {
            name: accumulator.scalar(slot, value)
            for slot, (name, value) in enumerate(scalars.items())
        }
        overhead = sources.pacing.clock.share_since_frame(ended)
        scale = accumulator.scalar(SCALE_SLOT, sources.scale.take())
        take = partial(_unscaled, plan, accumulator.take(), scale)
        outline = ranks.Outline(
            step,
            plan,
            every=0 if sources.pacing.sampler.fixed else sources.pacing.sampler.wish(),
            loss_given=given.get("loss") is not None,
        )
        whole: Whole = partial(ranks.whole, self._ranks, outline, take, readers)
        if self._ranks is not None and self._ranks.rank == 0:
            whole = self._ranks.soon(whole)
        shown = plan if self._ranks is None else self._ranks.widened(plan)
        values = partial(self._values, shown, whole, overhead)
        return Sample(step, time.time(), self._declaration(shown, tuple(scalars)), values)

    def _all_scalars(self, given: Mapping[str, Scalar | None]) -> dict[str, Scalar | None]:
        """What was given and what the agent reads by itself, in an order that never changes."""
        merged = {**self._sources.optimizer.scalars(), **given}
        self._names.update(dict.fromkeys(merged))
        return {name: merged.get(name) for name in self._names}

    def _values(
        self,
        plan: Plan,
        whole: Whole,
        overhead: float,
    ) -> NDArray[np.float32]:
        """The frame's values; runs in the sender thread and waits for the device."""
        sums, scalars = whole()
        self._note_silence(plan, sums)
        return frame_values(plan, sums, [*scalars.values(), overhead])

    def _note_silence(self, plan: Plan, sums: Sums) -> None:
        fired = sums.moments[:, COUNT] > 0
        if self._fired is not None and len(self._fired) == len(fired):
            fired |= self._fired
        self._fired, self.silent = fired, silent_places(plan, fired)

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


def _unscaled(plan: Plan, take: Callable[[], Sums], scale: Callable[[Sums], float]) -> Sums:
    sums = take()
    factor = scale(sums)
    return sums if math.isnan(factor) else unscaled(plan, sums, factor)
