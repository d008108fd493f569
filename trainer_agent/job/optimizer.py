"""What is read of the optimizers: learning rates, gradient norm, skipped steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.notes import Notes
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics.accumulator import Scalar
from trainer_agent.job.gradient_norm import (
    GradientReading,
    norm_before_clipping,
    read_gradients,
)
from trainer_agent.job.loss_scale import LossScale
from trainer_agent.job.parameters import UpdateHooks
from trainer_agent.model.reference import refer_to

# Learning rates beyond these are not shown.
SHOWN_OPTIMIZERS = 8
NAMED_PARAMETERS = 3
_OWN_HOOKS = "_optimizer_step_pre_hooks"  # which torch's own constructor makes
OptimizerArgument = Optimizer | Sequence[Optimizer] | Mapping[Any, Optimizer] | None


def optimizers_of(argument: OptimizerArgument) -> tuple[Optimizer, ...]:
    """The optimizers that a caller passes: none, one, several, or several by name."""
    if argument is None:
        return ()
    if hasattr(argument, "param_groups"):
        return (_unwrapped(argument),)
    values = argument.values() if isinstance(argument, Mapping) else argument
    return tuple(map(_unwrapped, values))


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer inside a wrapper that is one by its class alone, as accelerate's is."""
    while isinstance(optimizer, Optimizer) and not hasattr(optimizer, _OWN_HOOKS):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        optimizer = inner
    return optimizer


class OptimizerReader:
    """Reads the optimizers of a job as it uses them; none are optimizers nobody knows.

    The gradient norm is that of the gradients that the optimizers are given: over all of them,
    each at its last ``step`` within the agent's. An optimizer that has not stepped counts where
    none has, or where a loss scaler may have skipped it. A closure's gradients are those of its
    first call.

    Clipping by norm is undone, where it can be told (`norm_before_clipping`); it cannot where the
    end of the backward pass is not seen, as in compiled models, nor where the model is `staged`:
    a pipeline's schedule divides the gradients after the last pass.

    Attributes:
        optimizers: those it reads, none once it is removed.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        scale: LossScale,
        recorder: Recorder,
        guard: Guard,
        account: OverheadAccount,
        *,
        staged: bool = False,
        model: nn.Module | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.optimizers, self._scale = tuple(optimizers), scale
        self._guard, self._account = guard, account
        self._reads_after_backward = not staged
        self._model, self._notes = None if model is None else refer_to(model), notes
        self._n_in_groups = 0
        self._after_backward: dict[int, GradientReading | None] = {}
        self._at_step: dict[int, Tensor | None] = {}
        self._updates = self._steps = 0
        first = self.optimizers[0] if self.optimizers else None
        register = getattr(first, "register_step_pre_hook", None)
        self._handle = register(self._count_update) if register is not None else None
        self._hooks = [
            UpdateHooks(optimizer, self._before_update, None, enabled=lambda: recorder.active)
            for optimizer in self.optimizers
        ]
        recorder.subscribe_backward(self)

    def end_steps(self, steps: int) -> None:
        """Count steps, and forget what the last one showed."""
        self._steps += steps
        self._after_backward, self._at_step = {}, {}

    def scalars(self) -> dict[str, Scalar | None]:
        """What the step now ending has shown."""
        scalars: dict[str, Scalar | None] = {
            "learning_rate": None,
            "gradient_norm": None,
            **self.learning_rates(),
        }
        with self._guard.at("gradient_norm"):
            scalars["gradient_norm"] = self._norm()
        if self._scale.has_scaler:
            scalars["loss_scale"] = self._scale.in_force()
            scalars["skipped_steps"] = self._skipped()
        self._note_unoptimized()
        return scalars

    def learning_rates(self) -> dict[str, Scalar]:
        """Of each optimizer's first group that has one; the first optimizer's has no number."""
        rates: dict[str, Scalar] = {}
        # Plain loops: this is called at every step.
        for index, optimizer in enumerate(self.optimizers[:SHOWN_OPTIMIZERS]):
            for group in optimizer.param_groups:
                if "lr" in group:
                    rates[f"learning_rate_{index}" if index else "learning_rate"] = group["lr"]
                    break
        return rates

    def remove(self) -> None:
        """Take the hooks away, and read the optimizers no more."""
        self.optimizers = ()
        for hooks in self._hooks:
            hooks.remove()
        if self._handle is not None:
            self._handle.remove()

    def backward_begins(self, *, half: bool) -> None:
        """Note the scale that the pass's gradients carry."""
        self._scale.note(half=half)

    def backward_ends(self) -> None:
        """Read all the gradients there are by now."""
        if not self.optimizers or not self._reads_after_backward:
            return
        started = time.perf_counter()
        with self._guard.at("gradient_norm"):
            scale = self._scale.in_force()
            for optimizer in self.optimizers:
                reading = read_gradients(optimizer)
                divided = None if reading is None else reading.divided(scale)
                self._after_backward[id(optimizer)] = divided
        self._account.charge("gradient_norm", started)

    def _before_update(self, optimizer: Optimizer) -> None:
        started = time.perf_counter()
        with self._guard.at("gradient_norm"):
            self._at_step[id(optimizer)] = self._norm_at_step(optimizer)
        self._account.charge("gradient_norm", started)

    def _norm_at_step(self, optimizer: Optimizer) -> Tensor | None:
        before, scale = self._after_backward.get(id(optimizer)), self._scale.in_force()
        if before is not None and before.is_current(optimizer):
            return before.total()
        now = read_gradients(optimizer)
        if now is None:
            return None
        # An optimizer that divides by the scale itself still finds the scaled gradients.
        remaining = getattr(optimizer, "grad_scale", None)
        now = now.divided(remaining if isinstance(remaining, Tensor) else None)
        if before is None:
            return now.total()
        return norm_before_clipping(before, now, writes=1 if scale is None else 2)

    def _norm(self) -> Tensor | None:
        norms = [norm for norm in self._at_step.values() if norm is not None]
        if not self._at_step or self._scale.in_force() is not None:
            readings = self._after_backward.items()
            norms += [
                reading.total()
                for key, reading in readings
                if key not in self._at_step and reading is not None
            ]
        if len(norms) < 2:
            return norms[0] if norms else None
        norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
        return norm

    def _skipped(self) -> float | None:
        # The step now ending is not counted yet.
        return self._steps + 1 - self._updates if self._handle is not None else None

    def _count_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        self._updates += 1

    def _note_unoptimized(self) -> None:
        """Say which trainable parameters no optimizer holds, where their number has changed."""
        if self._model is None or self._notes is None or not self.optimizers:
            return
        groups = [group["params"] for o in self.optimizers for group in o.param_groups]
        n_in_groups = sum(map(len, groups))
        if n_in_groups != self._n_in_groups:
            self._n_in_groups = n_in_groups
            identities = {id(parameter) for group in groups for parameter in group}
            self._notes.say("optimizer", unoptimized(self._model(), identities))


def unoptimized(model: nn.Module, identities: set[int]) -> str:
    """One sentence on the trainable parameters that are not among these, "" where all are."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    names = [name for name, parameter in trainable if id(parameter) not in identities]
    if not names:
        return ""
    if len(names) == len(trainable):
        return "the optimizer that watch was given holds none of the model's trainable parameters"
    first = ", ".join(names[:NAMED_PARAMETERS])
    more = ", ..." if len(names) > NAMED_PARAMETERS else ""
    noun = "trainable parameter is" if len(names) == 1 else "trainable parameters are"
    return f"{len(names)} {noun} in no optimizer that watch was given: {first}{more}"
