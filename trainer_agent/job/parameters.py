"""What is read of parameters as the optimizer updates them: sizes, gradients, steps, moments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_manager import HookManager
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics import columns
from trainer_agent.job.parameter_sample import (
    ParameterSample,
    SampleGroup,
    sample_of,
    square_sums,
)
from trainer_agent.job.unheld_parameters import UnheldParameters
from trainer_agent.model.blocks import members
from trainer_agent.model.dtensor import is_partial, local, shards_of
from trainer_agent.model.plan import Plan

SECOND_MOMENT = "exp_avg_sq"  # as Adam and its kin name it
# Columns that are added to together.
_WEIGHTS = slice(columns.WEIGHTS, columns.WEIGHT_SQUARES + 1)
_CHANGES = slice(columns.CHANGED_SQUARES, columns.CHANGES + 1)
OnUpdate = Callable[[Optimizer], None]


@dataclass(frozen=True, slots=True)
class _Before:
    """A group of sampled parameters before an update.

    Attributes:
        values: (tensors, n).
        squares: their sums, (tensors,), each for the whole tensor.
        trained: which have a gradient, (tensors,); None where all have.
    """

    group: SampleGroup
    values: Tensor
    squares: Tensor
    trained: Tensor | None


class ParameterReader:
    """Sums over the parameters of each block, and of the others, around optimizers' steps.

    Weights and gradients as the optimizer finds them: after clipping, without a scaler's scale.
    Weights and what an update changes of them are read on evenly spread values, at most 1,024 of a
    tensor; weights on all values where the site is requested. Several updates in one step are
    counted together.

    Of sharded parameters each process has its part; of replicated ones all have the same. A part
    counts once for every shard, so that over all processes every value counts equally often.
    """

    def __init__(
        self,
        model: nn.Module,
        hooks: HookManager,
        recorder: Recorder,
        guard: Guard,
        account: OverheadAccount,
    ) -> None:
        self._hooks, self._recorder, self._guard, self._account = hooks, recorder, guard, account
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._rows: tuple[Plan, dict[int, int]] | None = None
        self._samples: dict[int, tuple[Plan, ParameterSample]] = {}
        self._before: list[_Before] = []
        self._unchanged: list[Tensor] = []
        self._constants: dict[tuple[torch.device, tuple[float, ...]], Tensor] = {}
        self._update_hooks: list[UpdateHooks] = []
        self._optimizers: list[Optimizer] = []
        self._unheld = UnheldParameters(model)
        self._unheld_at = (0, -1)

    def attach(self, optimizer: Optimizer) -> None:
        """Read the updates of this optimizer, too."""
        self._optimizers.append(optimizer)
        hooks = UpdateHooks(
            optimizer,
            self._before_update,
            self._after_update,
            enabled=lambda: self._recorder.active,
        )
        self._update_hooks.append(hooks)

    def take_scalars(self) -> dict[str, Tensor]:
        """What the sampled step has shown of the complete model; nothing is waited for.

        `unchanged_weights`: of the sampled weights of blocks that are of half precision and have a
        gradient, the share that the updates left exactly as they were. Absent where there are none.
        """
        sums, self._unchanged = self._unchanged, []
        if not sums:
            return {}
        unchanged, values = torch.stack([each.to(sums[0].device) for each in sums]).sum(0)
        return {"unchanged_weights": unchanged / values}

    def remove(self) -> None:
        """Take the hooks away."""
        for hooks in self._update_hooks:
            hooks.remove()
        # These hold the parameters' memory.
        self._samples, self._before, self._optimizers, self._unchanged = {}, [], [], []
        self._unheld.forget()

    def _before_update(self, optimizer: Optimizer) -> None:
        self._read(lambda plan: self._add_weights(plan, optimizer))
        self._read(self._add_unheld)

    def _after_update(self, optimizer: Optimizer) -> None:
        self._read(lambda plan: self._add_update(plan, optimizer))
        self._before = []  # even where reading failed: it holds copies of weights

    def _read(self, read: Callable[[Plan], None]) -> None:
        started = time.perf_counter()
        with self._guard.at("parameters"), torch.no_grad():
            read(self._hooks.plan)
        self._account.charge("parameters", started)

    def _add_weights(self, plan: Plan, optimizer: Optimizer) -> None:
        parameters = _parameters(optimizer)
        self._before = list(self._sampled(plan, optimizer, parameters))
        if "weights" not in plan.requested.sites:
            for before in self._before:
                sums = torch.stack([before.group.counts, before.squares], 1)
                self._add_to_rows(_WEIGHTS, before.group, sums)
            return
        self._add(plan, parameters, parameters, columns.WEIGHTS, order=2)
        trained = [parameter for parameter in parameters if _is_readable(parameter.grad)]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        scale = _scale(optimizer)
        self._add(plan, trained, gradients, columns.GRADIENTS, order=2, scale=scale)

    def _add_unheld(self, plan: Plan) -> None:
        """Count parameters that have a gradient, no optimizer, and have not moved."""
        accumulator = self._recorder.accumulator
        step = id(accumulator), accumulator.steps
        if step == self._unheld_at:  # between two updates of a step no other optimizer may step
            return
        self._unheld_at = step
        row_of = partial(self._row, plan)
        for group, squares in self._unheld.standing(self._optimizers, row_of, accumulator.device):
            sums = torch.stack([squares, torch.zeros_like(squares)], 1)
            self._add_to_rows(_CHANGES, group, sums)

    def _sampled(
        self, plan: Plan, optimizer: Optimizer, parameters: Sequence[Tensor]
    ) -> Iterator[_Before]:
        of_plan, sample = self._samples.get(id(optimizer), (None, None))
        if sample is None or of_plan is not plan or not sample.still_shows(parameters):
            rows = [self._row(plan, parameter) for parameter in parameters]
            sample = sample_of(parameters, rows, self._recorder.accumulator.device)
            self._samples[id(optimizer)] = plan, sample
        has_gradient = [parameter.grad is not None for parameter in parameters]
        for group in sample.groups:
            values = group.values()
            squares = square_sums(values) * group.scales
            yield _Before(group, values, squares, group.trained(has_gradient))

    def _add_update(self, plan: Plan, optimizer: Optimizer) -> None:
        for before in self._before:
            self._add_changes(before)
        if "updates" not in plan.requested.sites:
            return
        parameters = [
            p for p in _parameters(optimizer) if SECOND_MOMENT in optimizer.state.get(p, ())
        ]
        moments = [optimizer.state[parameter][SECOND_MOMENT] for parameter in parameters]
        self._add(plan, parameters, moments, columns.SECOND_MOMENTS, order=1)

    def _add_changes(self, before: _Before) -> None:
        """Add squares of the change, and of the weights before it, where there is a gradient."""
        group, squares = before.group, before.squares
        difference = group.values() - before.values
        if group.is_half:
            self._note_unchanged(before, difference)
        changes = square_sums(difference) * group.scales
        if before.trained is not None:
            squares, changes = squares * before.trained, changes * before.trained
        self._add_to_rows(_CHANGES, group, torch.stack([squares, changes], 1))

    def _note_unchanged(self, before: _Before, difference: Tensor) -> None:
        """Count values of blocks that a rounded update did not move."""
        group = before.group
        inside = (group.rows != self._hooks.plan.parameter_rows - 1).to(group.scales.device)
        weights = (
            group.scales * inside
            if before.trained is None
            else (group.scales * inside * before.trained)
        )
        unchanged = (difference == 0).sum(1) * weights
        self._unchanged.append(torch.stack([unchanged.sum(), weights.sum() * difference.shape[1]]))

    def _add_to_rows(self, at: slice, group: SampleGroup, sums: Tensor) -> None:
        self._recorder.accumulator.add_parameters(at, group.rows, sums)

    def _add(
        self,
        plan: Plan,
        parameters: Sequence[Tensor],
        tensors: Sequence[Tensor],
        column: int,
        *,
        order: int,
        scale: Tensor | None = None,
    ) -> None:
        """Add counts to a column, and sums of absolute values or of squares to the next one."""
        if not tensors:
            return
        sums = _norms(tensors, order)
        sums = sums if scale is None else sums / scale.to(sums.device)
        rows = [self._row(plan, parameter) for parameter in parameters]
        counts = tuple(map(_count, tensors))
        self._scatter(column, rows, self._constant(counts, sums.device))
        sums = sums.square() if order == 2 else sums
        shards = tuple(float(shards_of(tensor)) for tensor in tensors)
        if set(shards) != {1.0}:
            sums *= self._constant(shards, sums.device)
        self._scatter(column + 1, rows, sums)

    def _scatter(self, column: int, rows: Sequence[int], values: Tensor) -> None:
        accumulator = self._recorder.accumulator
        index = self._constant(tuple(map(float, rows)), accumulator.device).long()
        accumulator.add_parameters(column, index, values)

    def _constant(self, values: tuple[float, ...], device: torch.device) -> Tensor:
        """Numbers on the device; brought there once, because that waits."""
        constant = self._constants.get((device, values))
        if constant is None:
            constant = self._constants[device, values] = torch.tensor(values, device=device)
        return constant

    def _row(self, plan: Plan, parameter: Tensor) -> int:
        if self._rows is None or self._rows[0] is not plan:
            self._rows = plan, _rows(plan, self._names)
        return self._rows[1].get(id(parameter), plan.parameter_rows - 1)


class UpdateHooks:
    """Calls back with an optimizer's gradients, and again once it has updated.

    A closure passed to ``step``, as Lightning and LBFGS do it, computes the gradients inside:
    there the first call follows the closure's first call, whatever else it does, clipping too.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: OnUpdate,
        after: OnUpdate | None,
        *,
        enabled: Callable[[], bool],
    ) -> None:
        """Set the hooks; an optimizer without hooks is never read.

        Args:
            optimizer: whose updates are read.
            before, after: called around an update, or before it alone; they must not raise.
            enabled: asked as a step begins.
        """
        self._before, self._after, self._enabled = before, after, enabled
        registers = [
            (getattr(optimizer, "register_step_pre_hook", None), self._step_begins),
            (getattr(optimizer, "register_step_post_hook", None), after and self._step_ends),
        ]
        self._handles = [register(hook) for register, hook in registers if register and hook]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _step_begins(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._enabled():
            return None
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._wrapped(optimizer, kwargs["closure"])}
        # Torch passes a hook what `step` was called with, the optimizer itself first.
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._wrapped(optimizer, args[1]), *args[2:]), kwargs
        self._before(optimizer)
        return None

    def _wrapped(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure, which reads the optimizer after its first call."""
        pending = [self._before]

        def run(*args: Any, **kwargs: Any) -> Any:
            loss = closure(*args, **kwargs)
            # Once: LBFGS calls its closure again at weights that it has moved.
            while pending:
                pending.pop()(optimizer)
            return loss

        return run

    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if self._after is not None and self._enabled():
            self._after(optimizer)


def _rows(plan: Plan, names: dict[int, str]) -> dict[int, int]:
    """The row of each parameter that lies in a block, by its identity."""
    blocks = {
        path: place.first + index
        for stack, place in zip(plan.stacks, plan.logit_places, strict=True)
        for index, block in enumerate(stack.blocks)
        for path in members(block)
    }
    rows = {}
    for identity, name in names.items():
        parents = name.split(".")
        paths = (".".join(parents[:end]) for end in range(len(parents) - 1, 0, -1))
        row = next((blocks[path] for path in paths if path in blocks), None)
        if row is not None:
            rows[identity] = row
    return rows


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    # Sharding leaves empty parts in some processes.
    return [p for group in optimizer.param_groups for p in group["params"] if p.numel()]


def _count(tensor: Tensor) -> float:
    return float(local(tensor).numel() * shards_of(tensor))


def _is_readable(gradient: Tensor | None) -> bool:
    return gradient is not None and not gradient.is_sparse and not is_partial(gradient)


def _norms(tensors: Sequence[Tensor], order: int) -> Tensor:
    """Norms of the tensors, (n,), in float32 and on one device."""
    parts = [local(tensor) for tensor in tensors]
    norms = torch._foreach_norm(parts, order, dtype=torch.float32)
    return torch.stack([norm.to(norms[0].device) for norm in norms])


def _scale(optimizer: Optimizer) -> Tensor | None:
    """The scale that the gradients still carry, where an optimizer divides by it itself."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale if isinstance(scale, Tensor) else None
