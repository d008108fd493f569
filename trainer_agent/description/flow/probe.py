"""Hooks on the parts of every block, for the length of one described step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.gradient_hooks import BackwardPasses, in_backward, on_gradient
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hooks import Hook, first_stream
from trainer_agent.capture.model_state import has_compiled_parts
from trainer_agent.capture.overhead_account import ONCE, OverheadAccount
from trainer_agent.capture.padding import fitting, padding_masks
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.token_axis import BATCH_FIRST
from trainer_agent.capture.transforms import is_transformed
from trainer_agent.description.flow.sites import BlockSites, Place, sites_of
from trainer_agent.description.flow.sums import FlowSums, Key, Rows, Sums, averaged, site_sums
from trainer_agent.description.read.parts import Architecture
from trainer_agent.description.read.stacks import BlockReading
from trainer_agent.description.trace.module_calls import ModuleCall
from trainer_agent.model.dtensor import local_part
from trainer_agent.model.plan import Edge, Plan

PLACE = "flow"
ENDS_ALONE = BlockSites((), (), {}, {})  # of a block that is not understood


class Passes(Protocol):
    """Says which calls and gradients belong to the step that is measured."""

    def forward_begins(self) -> None:
        """A forward pass begins."""

    def wants(self, module: nn.Module) -> bool:
        """Whether what `module` now computes counts."""
        ...

    def is_of_loss(self, g: Tensor) -> bool:
        """Whether a gradient that now comes counts."""
        ...


class PassesOfAll:
    """Every call and gradient counts: the passes are run for the sake of it."""

    def forward_begins(self) -> None:
        """Do nothing."""

    def wants(self, module: nn.Module) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def is_of_loss(self, g: Tensor) -> bool:  # noqa: ARG002
        """Always."""
        return True


class PassesOfJob:
    """What a recorder counts, and of gradients those that reach the job's parameters."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._backward = recorder, BackwardPasses()

    def forward_begins(self) -> None:
        """Note which thread the job's passes run in."""
        self._backward.forward_begins()

    def wants(self, module: nn.Module) -> bool:
        """Whether the recorder counts it."""
        return self._recorder.wants(module)

    def is_of_loss(self, g: Tensor) -> bool:
        """Whether it is no gradient of inputs, of many outputs, or to be differentiated again."""
        if is_transformed() or torch._C._functorch.is_legacy_batchedtensor(g):
            return False
        call = self._backward.call()
        return call.reaches_parameters and (call.accumulates or not torch.is_grad_enabled())


class FlowProbe:
    """Takes the sums of a `BlockFlow` in the passes of one step; tensors go as they come.

    The gradient of a stream is held from behind a branch until that before it has come: what the
    branch alone returns is their difference.
    """

    def __init__(self, passes: Passes, guard: Guard, account: OverheadAccount) -> None:
        self._passes, self._guard, self._account = passes, guard, account
        self._handles: list[RemovableHandle] = []
        self._sites: dict[str, BlockSites] = {}
        self._sums: dict[Key, Sums] = {}
        self._behind: dict[tuple[str, str], Tensor] = {}
        self._masks: Mapping[str, Tensor | None] = {}
        self._modules: dict[str, nn.Module] = {}

    @property
    def is_open(self) -> bool:
        """Whether it measures, or holds what it has measured."""
        return bool(self._handles or self._sites or self._modules)

    def open(
        self,
        model: nn.Module,
        plan: Plan,
        architecture: Architecture | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        """Measure from here on: the ends of the plan's blocks, and what is inside of those read.

        What is inside the others is measured off the calls that `add` is given. `kwargs` are the
        arguments of the model's pass that begins.
        """
        self.close()
        # Compiled code would be compiled anew for hooks.
        if has_compiled_parts(model):
            return
        self._modules = dict(model.named_modules())
        self.next_pass(plan, kwargs)
        for path, (enters, leaves) in _ends(plan).items():
            self._attach(path, (Place("in", enters.module, is_input=enters.is_input),))
            self._attach(path, (Place("out", leaves.module, is_input=leaves.is_input),))
        for stack in architecture.stacks if architecture else ():
            added = stack.added or ({},) * len(stack.blocks)
            for path, parts, ends in zip(stack.blocks, stack.parts, added, strict=True):
                if path in self._sites:
                    continue
                is_read = parts is not None
                self._sites[path] = sites_of(parts, ends, self._modules) if parts else ENDS_ALONE
                if is_read:
                    self._watch(path, self._sites[path])

    def next_pass(self, plan: Plan, kwargs: Mapping[str, Any]) -> None:
        """Another forward pass of the step begins, with these arguments and their padding."""
        if self._modules:
            self._passes.forward_begins()
            masks = padding_masks(kwargs, [stack.name for stack in plan.stacks])
            self._masks = {path: masks[s.name] for s in plan.stacks for path in s.blocks}

    def add(self, path: str, reading: BlockReading, calls: Mapping[str, ModuleCall]) -> None:
        """Measure a block off the calls that its reading has seen."""
        if not self._handles or path in self._sites:
            return
        if reading.parts is None:
            self._sites[path] = ENDS_ALONE
            return
        with self._guard.at(PLACE):
            sites = sites_of(reading.parts, reading.added, self._modules)
            self._sites[path] = sites
            for place in sites.places:
                call = calls.get(place.module)
                if call is None:
                    continue
                x = call.input if place.is_input else call.result
                if x is not None:
                    self._see(path, place, x)

    def close(self) -> FlowSums | None:
        """Measure no longer; what was measured, None where nothing was."""
        for handle in self._handles:
            handle.remove()
        sites, sums = self._sites, self._sums
        self._handles, self._sites, self._sums, self._behind = [], {}, {}, {}
        self._modules, self._masks = {}, {}
        return FlowSums.read(sites, sums) if sites else None

    def _watch(self, path: str, sites: BlockSites) -> None:
        ends: dict[tuple[str, bool], list[Place]] = {}
        for place in sites.places:
            ends.setdefault((place.module, place.is_input), []).append(place)
        for places in ends.values():
            self._attach(path, tuple(places))

    def _attach(self, path: str, places: tuple[Place, ...]) -> None:
        module = self._modules[places[0].module]
        if isinstance(module, torch.jit.ScriptModule):
            return
        call = partial(self._on_call, path, places)
        if places[0].is_input:
            # First of all hooks: what others make of the stream has but a part of its gradient.
            add = module.register_forward_pre_hook
            self._handles.append(add(_BeforePart(call), prepend=True, with_kwargs=True))
        else:
            self._handles.append(module.register_forward_hook(_AfterPart(call)))

    def _on_call(self, path: str, places: tuple[Place, ...], module: nn.Module, value: Any) -> None:
        if not self._passes.wants(module):
            return
        started = time.perf_counter()
        with self._guard.at(PLACE), torch._C.DisableTorchFunction():
            x = first_stream(value)
            for place in places if x is not None else ():
                assert x is not None
                self._see(path, place, x)
        self._account.charge(ONCE, started)

    def _see(self, path: str, place: Place, x: Tensor) -> None:
        """Count a tensor, and have its gradient counted."""
        key = path, "forward", place.site
        # A checkpoint's recomputation shows again what its pass has shown, if that had gradients.
        if in_backward() and key in self._sums:
            return
        part = local_part(x)
        if part is None or (place.runs and part.shape[-1] != place.width):
            return
        axis = self._sites[path].token_axis if path in self._sites else BATCH_FIRST
        tokens = part.transpose(0, 1) if axis != BATCH_FIRST and part.ndim == 3 else part
        mask = _fitting(self._masks.get(path), tokens)
        self._average(path, place, tokens, mask)
        mask = mask if axis == BATCH_FIRST or mask is None else mask.transpose(0, 1)
        self._add(key, site_sums(part, mask, place.runs))
        if x.requires_grad:
            handle = on_gradient(x, partial(self._on_gradient, path, place, mask))
            self._handles.append(handle)

    def _average(self, path: str, place: Place, v: Tensor, mask: Tensor | None) -> None:
        """Count the values' even average, to which attention's own is compared."""
        sites = self._sites.get(path)
        if sites is None or place.site not in sites.average or v.ndim != 3:
            return
        causal, window = sites.average[place.site]
        pieces = [v[..., a:b] for a, b in place.runs] or [v]
        site = place.site.replace(".value", ".average")
        for piece in pieces:
            mean = averaged(piece, mask, causal, window)
            self._add((path, "forward", site), site_sums(mean, mask))

    def _on_gradient(self, path: str, place: Place, mask: Tensor | None, g: Tensor) -> None:
        started = time.perf_counter()
        with self._guard.at(PLACE):
            part = local_part(g) if self._passes.is_of_loss(g) else None
            if part is not None:
                part = part.detach()
                self._add((path, "backward", place.site), site_sums(part, mask, place.runs))
                self._returned(path, place.site, part, mask)
        self._account.charge(ONCE, started)

    def _returned(self, path: str, site: str, g: Tensor, mask: Tensor | None) -> None:
        sites = self._sites.get(path)
        for step in sites.sums if sites else ():
            if site == step.before:
                behind = self._behind.pop((path, step.step), None)
                # Some blocks join batch and tokens for their feed-forward layer.
                if behind is not None and behind.numel() == g.numel():
                    branch = g - step.lam * behind.reshape(g.shape)
                    key = path, "backward", f"{step.step}.returned"
                    self._add(key, site_sums(branch, mask))
            if site == step.behind:
                self._behind[path, step.step] = g

    def _add(self, key: Key, sums: Sums) -> None:
        former = self._sums.get(key)
        if isinstance(former, Tensor) and isinstance(sums, Tensor):
            sums = former + sums
        elif former is not None:
            sums = _here(former) + _here(sums)
        self._sums[key] = sums


class _AfterPart(Hook):
    """Forward hook of a part: hands on its output."""

    def __init__(self, call: Callable[[nn.Module, Any], None]) -> None:
        self._call = call

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        """Count the output."""
        self._call(module, output)


class _BeforePart(_AfterPart):
    """Forward pre-hook of a part: hands on its input."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Count the input."""
        self._call(module, (*args, *kwargs.values()))


def _ends(plan: Plan) -> dict[str, tuple[Edge, Edge]]:
    """By block where the stream enters and leaves it."""
    return {
        path: stack.ends(stack.blocks.index(path)) for stack in plan.stacks for path in stack.blocks
    }


def _here(sums: Sums) -> Rows:
    """Sums on the host: a step's micro-batches may differ in how they are counted."""
    return sums.double().cpu().numpy() if isinstance(sums, Tensor) else sums


def _fitting(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask, if it has this tensor's tokens: (batch, seq), or all of them in one dimension."""
    is_flat = mask is not None and x.ndim == 2 and len(x) == mask.numel()
    return mask.flatten() if mask is not None and is_flat else fitting(mask, x)
