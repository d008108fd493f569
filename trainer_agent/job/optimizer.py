"""What is read of the optimizer: learning rate, gradient norm, skipped steps."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics.accumulator import Scalar
from trainer_agent.job.gradient_norm import gradient_norm
from trainer_agent.job.loss_scale import LossScale


class OptimizerReader:
    """Reads an optimizer as its job uses it. None is an optimizer of which nothing is known.

    The gradient norm is that of the whole step as the last backward pass leaves it, before any
    clipping; where that moment is not seen (compiled models), as the optimizer finds it. So it is
    where the model is `staged`: a pipeline's schedule divides the gradients after the last pass.
    """

    def __init__(
        self,
        optimizer: Optimizer | None,
        scale: LossScale,
        recorder: Recorder,
        guard: Guard,
        account: OverheadAccount,
        *,
        staged: bool = False,
    ) -> None:
        self._optimizer, self._scale, self._recorder = optimizer, scale, recorder
        self._guard, self._account = guard, account
        self._reads_after_backward = optimizer is not None and not staged
        self._norm: Tensor | None = None
        self._updates = self._steps = 0
        register = getattr(optimizer, "register_step_pre_hook", None)
        self._handle = register(self._before_update) if register is not None else None
        recorder.subscribe_backward(self)

    def end_steps(self, steps: int) -> None:
        """Count steps, and forget what the last one showed."""
        self._steps += steps
        self._norm = None

    def scalars(self) -> dict[str, Scalar | None]:
        """What the step now ending has shown."""
        scalars: dict[str, Scalar | None] = {
            "learning_rate": self._learning_rate(),
            "gradient_norm": self._norm,
        }
        if self._scale.has_scaler:
            scalars["loss_scale"] = self._scale.in_force()
            scalars["skipped_steps"] = self._skipped()
        return scalars

    def remove(self) -> None:
        """Take the hook away, and read the optimizer no more."""
        self._optimizer = None
        if self._handle is not None:
            self._handle.remove()

    def backward_begins(self, *, half: bool) -> None:
        """Note the scale that the pass's gradients carry."""
        self._scale.note(half=half)

    def backward_ends(self) -> None:
        """Read the norm of all gradients there are by now."""
        if self._optimizer is None or not self._reads_after_backward:
            return
        started = time.perf_counter()
        with self._guard.at("gradient_norm"):
            norm, scale = gradient_norm(self._optimizer), self._scale.in_force()
            self._norm = norm if norm is None or scale is None else norm / scale.to(norm.device)
        self._account.charge("gradient_norm", started)

    def _learning_rate(self) -> Scalar | None:
        for group in self._optimizer.param_groups if self._optimizer is not None else ():
            if "lr" in group:
                rate: Scalar = group["lr"]
                return rate
        return None

    def _skipped(self) -> float | None:
        # The step now ending is not counted yet.
        return self._steps + 1 - self._updates if self._handle is not None else None

    def _before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        self._updates += 1
        if self._recorder.active and self._norm is None:
            started = time.perf_counter()
            with self._guard.at("gradient_norm"):
                # A scaler has divided by its scale before it lets the optimizer step.
                self._norm = gradient_norm(optimizer)
            self._account.charge("gradient_norm", started)
