"""Takes the sample of a step off the device, in the training thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from trainer_agent.capture.hook_manager import HookManager
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics.accumulator import SCALE_SLOT, Scalar
from trainer_agent.delivery.messages import Sample
from trainer_agent.distributed import Processes
from trainer_agent.job.loss_scale import LossScale
from trainer_agent.job.optimizer import OptimizerReader
from trainer_agent.job.parameters import ParameterReader
from trainer_agent.sampling.controller import SamplingController
from trainer_agent.sampling.framing import Framing
from trainer_agent.sampling.overhead import OverheadMeter


@dataclass(frozen=True, slots=True)
class Readout:
    """Takes all of a sampled step that a later step may change, and leaves the work for later."""

    hooks: HookManager
    recorder: Recorder
    optimizer: OptimizerReader
    scale: LossScale
    meter: OverheadMeter
    controller: SamplingController
    framing: Framing
    processes: Processes
    parameters: ParameterReader | None = None

    def take(self, step: int, reported: Mapping[str, Scalar | None]) -> Sample:
        """The sample of a step, without waiting for the device.

        As little as can be happens here. The code of a function that runs once a step has to be
        read from memory, so that each costs the training thread some microseconds.

        Args:
            step: its number.
            reported: what the job reports of it, by name.
        """
        processes, accumulator = self.processes, self.recorder.accumulator
        shown = {} if self.parameters is None else self.parameters.take_scalars()
        scalars = {**self.optimizer.scalars(), **shown, **reported}
        returned = self.hooks.take_returned_loss()
        if scalars.get("loss") is None:
            scalars["loss"] = returned
        alone = processes.size == 1
        numbers = {
            name: accumulator.scalar(slot, value)
            for slot, (name, value) in enumerate(scalars.items())
        }
        scale = accumulator.scalar(SCALE_SLOT, self.scale.take())
        content = partial(
            self.framing.frame_content,
            step,
            self.hooks.plan,
            accumulator.take(),  # after the scalars, which lie in the same buffer
            every=0 if alone else self.controller.proposed_interval(),
            has_loss=scalars.get("loss") is not None,
            scalars=numbers,
            scale=scale,
            overhead=self.meter.share_since_frame(),
        )
        if not alone:  # else the sender's thread does it, which is metered as a whole
            content = processes.in_background(partial(self.meter.metered, content))  # type: ignore[assignment]
        return Sample(step, time.time(), content)
