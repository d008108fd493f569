"""Skipping the updates of steps whose gradients are broken: off unless asked for."""

from __future__ import annotations

from collections import deque
from math import isfinite
from statistics import median

from torch.optim import Optimizer

from trainer_agent.capture.guard import Guard
from trainer_agent.job.gradient_norm import gradient_norm
from trainer_agent.job.parameters import UpdateHooks

# As the server's rule for gradient norms has it.
NORM_FACTOR = 20.0
NORM_SAMPLES = 32


class UpdateSkipper:
    """Takes the gradients away before an update that would do harm, so that it changes nothing.

    A step is skipped when the norm of its gradients is not finite, or more than 20 times the
    median of the last 32 norms. The norm is brought to the host before every update: the one
    thing in evenkeel that makes a job wait for its device. Processes decide alike, as far as
    they hold the same gradients; sharded ones (FSDP, tensor parallelism) are left alone. Of a
    closure that an optimizer calls several times, the first call's gradients are judged.
    """

    def __init__(self, optimizer: Optimizer, guard: Guard) -> None:
        self._guard = guard
        self._norms: deque[float] = deque(maxlen=NORM_SAMPLES)
        self._hooks = UpdateHooks(optimizer, self._before_update, None, enabled=lambda: True)

    def remove(self) -> None:
        """Take the hooks away."""
        self._hooks.remove()

    def _before_update(self, optimizer: Optimizer) -> None:
        with self._guard.at("skip_step"):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            # Of sharded parameters each process has another norm, and would decide by itself.
            if any(hasattr(parameter, "full_tensor") for parameter in parameters):
                return
            norm = gradient_norm(optimizer)
            if norm is None or not self._is_broken(float(norm)):
                return
            for parameter in parameters:
                parameter.grad = None

    def _is_broken(self, norm: float) -> bool:
        if not isfinite(norm):
            return True
        full = len(self._norms) == NORM_SAMPLES
        if full and norm > NORM_FACTOR * median(self._norms):
            return True
        # A norm that is skipped stays out of the median, or a run of bad ones would become usual.
        self._norms.append(norm)
        return False
