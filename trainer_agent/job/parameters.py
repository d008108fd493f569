"""What is read of parameters as the optimizer updates them: sizes, gradients, steps, moments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_agent.capture.hook_manager import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics import columns
from trainer_agent.model.dtensor import is_partial, local, shards_of
from trainer_agent.model.plan import Plan

# Values of one tensor that are kept over an update, to see what it changed.
SAMPLED_VALUES = 4096
SECOND_MOMENT = "exp_avg_sq"  # as Adam and its kin name it
Look = Callable[[Optimizer], None]


@dataclass(frozen=True, slots=True)
class _Before:
    """Some values of a tensor before its update, and how many values they stand for."""

    parameter: Tensor
    row: int
    values: Tensor
    stands_for: float


class ParameterView:
    """Sums over the parameters of each block, and of the rest, around optimizers' steps.

    Weights and gradients as the optimizer finds them: after clipping, without a scaler's scale.
    The update is seen on evenly spread values, at most 4,096 of a tensor. Several updates in one
    step are counted together.

    Of sharded parameters each process sees its part; of replicated ones all see the same. A part
    counts once for every shard, so that over all processes every value counts equally often.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | None, probe: Probe, recorder: Recorder
    ) -> None:
        self._probe, self._recorder = probe, recorder
        self._names = {id(one): name for name, one in model.named_parameters()}
        self._known: tuple[Plan, dict[int, int]] | None = None
        self._before: list[_Before] = []
        self._constants: dict[tuple[torch.device, tuple[float, ...]], Tensor] = {}
        self._hooks: list[UpdateHooks] = []
        if optimizer is not None:
            self.follow(optimizer)

    def follow(self, optimizer: Optimizer) -> None:
        """Look at the updates of this optimizer, too."""
        looks = self._update_begins, self._update_ends
        self._hooks.append(UpdateHooks(optimizer, *looks, wanted=lambda: self._recorder.active))

    def remove(self) -> None:
        """Take the hooks away."""
        for hooks in self._hooks:
            hooks.remove()

    def _update_begins(self, optimizer: Optimizer) -> None:
        self._look(lambda plan: self._note_before(plan, optimizer))

    def _update_ends(self, optimizer: Optimizer) -> None:
        self._look(lambda plan: self._note_after(plan, optimizer))
        self._before = []

    def _look(self, look: Callable[[Plan], None]) -> None:
        started = time.perf_counter()
        with self._recorder.guard.at("parameters"), torch.no_grad():
            look(self._probe.plan)
        self._recorder.spend("parameters", started)

    def _note_before(self, plan: Plan, optimizer: Optimizer) -> None:
        held = _held(optimizer)
        if "weights" in plan.wanted.sites:
            self._add(plan, held, held, columns.WEIGHTS, order=2)
            given = [one for one in held if _is_whole(one.grad)]
            gradients = [one.grad for one in given if one.grad is not None]
            self._add(plan, given, gradients, columns.GRADIENTS, order=2, scale=_scale(optimizer))
        if "updates" in plan.wanted.sites:
            self._before = [
                _Before(one, self._row(plan, one), _some(one).clone(), _count(one))
                for one in held
                if one.grad is not None
            ]

    def _note_after(self, plan: Plan, optimizer: Optimizer) -> None:
        if "updates" not in plan.wanted.sites:
            return
        kept = [one for one in _held(optimizer) if SECOND_MOMENT in optimizer.state.get(one, ())]
        moments = [optimizer.state[one][SECOND_MOMENT] for one in kept]
        self._add(plan, kept, moments, columns.SECOND_MOMENTS, order=1)
        if self._before:
            self._note_changes()

    def _note_changes(self) -> None:
        before = [one.values for one in self._before]
        changed = torch._foreach_sub([_some(one.parameter) for one in self._before], before)
        rows = [one.row for one in self._before]
        shares = tuple(one.stands_for / max(one.values.numel(), 1) for one in self._before)
        for column, tensors in ((columns.CHANGED_SQUARES, before), (columns.CHANGES, changed)):
            squares = _norms(tensors, 2).square()
            self._scatter(column, rows, squares * self._constant(shares, squares.device))

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
        rows = [self._row(plan, one) for one in parameters]
        counts = tuple(map(_count, tensors))
        self._scatter(column, rows, self._constant(counts, sums.device))
        sums = sums.square() if order == 2 else sums
        shards = tuple(float(shards_of(one)) for one in tensors)
        if set(shards) != {1.0}:
            sums *= self._constant(shards, sums.device)
        self._scatter(column + 1, rows, sums)

    def _scatter(self, column: int, rows: Sequence[int], values: Tensor) -> None:
        held = self._recorder.accumulator.parameters
        at = self._constant(tuple(map(float, rows)), held.device).long()
        held[:, column].index_add_(0, at, values.to(held))

    def _constant(self, values: tuple[float, ...], device: torch.device) -> Tensor:
        """Numbers on the device; brought there once, because that waits."""
        known = self._constants.get((device, values))
        if known is None:
            known = self._constants[device, values] = torch.tensor(values, device=device)
        return known

    def _row(self, plan: Plan, parameter: Tensor) -> int:
        if self._known is None or self._known[0] is not plan:
            self._known = plan, _rows(plan, self._names)
        return self._known[1].get(id(parameter), plan.parameter_rows - 1)


def _rows(plan: Plan, names: dict[int, str]) -> dict[int, int]:
    """The row of each parameter that lies in a block, by its identity."""
    blocks = {
        path: place.first + index
        for stack, place in zip(plan.stacks, plan.logit_places, strict=True)
        for index, path in enumerate(stack.blocks)
    }
    found = {}
    for identity, name in names.items():
        parents = name.split(".")
        paths = (".".join(parents[:end]) for end in range(len(parents) - 1, 0, -1))
        row = next((blocks[path] for path in paths if path in blocks), None)
        if row is not None:
            found[identity] = row
    return found


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"] if one.numel()]


def _count(tensor: Tensor) -> float:
    return float(local(tensor).numel() * shards_of(tensor))


def _is_whole(gradient: Tensor | None) -> bool:
    return gradient is not None and not gradient.is_sparse and not is_partial(gradient)


def _norms(tensors: Sequence[Tensor], order: int) -> Tensor:
    """Norms of so many tensors, in float32 and on one device."""
    found = torch._foreach_norm([local(one) for one in tensors], order, dtype=torch.float32)
    return torch.stack([one.to(found[0].device) for one in found])


def _some(parameter: Tensor) -> Tensor:
    flat = local(parameter).detach().reshape(-1)
    return flat[:: max(1, -(-len(flat) // SAMPLED_VALUES))]


def _scale(optimizer: Optimizer) -> Tensor | None:
    """What the gradients still carry, where an optimizer divides by it itself."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale if isinstance(scale, Tensor) else None


class UpdateHooks:
    """Looks at an optimizer with the gradients it updates by, and when it has updated.

    A closure given to ``step``, as Lightning and LBFGS have it, computes the gradients inside:
    there the first look follows the closure's first call, whatever else it does, clipping too.
    """

    def __init__(
        self, optimizer: Optimizer, before: Look, after: Look, *, wanted: Callable[[], bool]
    ) -> None:
        """Set the hooks; optimizers that have none to offer are never looked at.

        Args:
            optimizer: whose updates are looked at.
            before, after: the looks; they must not raise.
            wanted: whether to look, asked as a step begins.
        """
        self._before, self._after, self._wanted = before, after, wanted
        registers = [
            (getattr(optimizer, "register_step_pre_hook", None), self._step_begins),
            (getattr(optimizer, "register_step_post_hook", None), self._step_ends),
        ]
        self._handles = [register(hook) for register, hook in registers if register is not None]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _step_begins(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._wanted():
            return None
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._looking(optimizer, kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):  # the first is the optimizer
            return (args[0], self._looking(optimizer, args[1]), *args[2:]), kwargs
        self._before(optimizer)
        return None

    def _looking(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure, with a look after its first call."""
        looks = [self._before]

        def run(*args: Any, **kwargs: Any) -> Any:
            found = closure(*args, **kwargs)
            while looks:
                looks.pop()(optimizer)
            return found

        return run

    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if self._wanted():
            self._after(optimizer)
