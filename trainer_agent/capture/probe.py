"""The hooks on a model: which are set, and the model's own forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.attention_logits import AttentionView
from trainer_agent.capture.hooks import (
    AfterAttention,
    AfterBlock,
    AfterBranch,
    AfterHead,
    AfterModel,
    BeforeAttention,
    BeforeBlock,
    BeforeModel,
    BeforeNorm,
)
from trainer_agent.capture.log_z import head_of
from trainer_agent.capture.padding import padding_masks
from trainer_agent.capture.plan import NORM_INPUTS, Plan, StackPlan
from trainer_agent.capture.recorder import ONCE, Recorder, in_backward

# Sites given up, costliest first, where a budget cannot be kept otherwise.
DISPENSABLE = ("attention_logits", "attention", "feed_forward")
# Stands for every quantity that the user added, which go first.
QUANTITIES = "quantities"

Begin = Callable[[tuple[Any, ...], Mapping[str, Any]], None]


class Probe:
    """Sets the hooks that feed a `Recorder`. While that is not active each returns at once.

    Attributes:
        plan: the places measured.
        begin: told of the model's inputs before every sampled forward pass.
        dropped_sites: sites given up because they cost too much.
    """

    def __init__(self, model: nn.Module, plan: Plan, recorder: Recorder) -> None:
        self._model, self._recorder = model, recorder
        self.begin: Begin = lambda _args, _kwargs: None
        self._view = AttentionView(recorder.logits)
        self._viewing = self._in_pass = self._may_view = False
        self._model_handles = [
            model.register_forward_pre_hook(
                BeforeModel(recorder, self._begin_pass), with_kwargs=True
            ),
            model.register_forward_hook(AfterModel(self._end_pass), always_call=True),
        ]
        self._handles: dict[str, list[RemovableHandle]] = {}
        self._wanted = plan.wanted
        self.dropped_sites: list[str] = []
        self._parked: list[tuple[RemovableHandle, Any]] = []
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Measure the places of `plan` from now on, and what the first plan wanted beyond."""
        self._detach()
        self.plan = plan = replace(plan, wanted=self._wanted)
        self._windowed = _has_windows(plan, self._model)
        self._blocks = [
            self._model.get_submodule(path) for stack in plan.stacks for path in stack.blocks
        ]
        self._recorder.follow(plan, _device_of(self._model))
        if QUANTITIES in self.dropped_sites:
            self._recorder.give_up_quantities()
        for stack in plan.stacks:
            self._attach(stack)
        for custom in plan.wanted.custom:
            self._attach_branches(custom.stack, custom.name, custom.paths)
        if plan.log_z_places:
            self._attach_head()

    def switch(self, *, on: bool) -> None:
        """Measure from here on, or not. While off, the hooks are away where that is safe."""
        self._recorder.active = on
        if on:
            self._unpark()
        elif self._recorder.eager and not self._has_compiled_block():
            self._park()

    def _park(self) -> None:
        # A module without hooks is called the short way. A compiled one must keep them: torch
        # looks at hooks only while it compiles.
        for handle in chain.from_iterable(self._handles.values()):
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks:
                self._parked.append((handle, hooks.pop(handle.id)))

    def _unpark(self) -> None:
        parked, self._parked = self._parked, []
        for handle, hook in parked:
            hooks = handle.hooks_dict_ref()
            if hooks is not None:
                hooks[handle.id] = hook

    def drop_costliest_site(self) -> bool:
        """Give up the costliest of the sites one can do without; whether there was one."""
        if self._wanted.costly and QUANTITIES not in self.dropped_sites:
            self.dropped_sites.append(QUANTITIES)
            self._recorder.give_up_quantities()
            return True
        spent = self._recorder.spent_s
        named = (*NORM_INPUTS, *(custom.name for custom in self._wanted.custom), "log_z")
        left = [site for site in (*named, *DISPENSABLE) if site not in self.dropped_sites]
        if not left:
            return False
        site = max(left, key=lambda one: spent[one])
        self.dropped_sites.append(site)
        for place in [place for place in self._handles if f"/{site}[" in place]:
            for handle in self._handles.pop(place):
                handle.remove()
        return True

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Let forward passes of our own go by uncounted."""
        self._recorder.active = False
        try:
            yield
        finally:
            self._recorder.active = True

    def remove(self) -> None:
        """Take every hook away."""
        self._end_pass()
        self._unpark()
        self._detach()
        for handle in self._model_handles:
            handle.remove()

    def drop_failing(self) -> None:
        """Take away the hooks of places that fail again and again."""
        guard = self._recorder.guard
        for place in [place for place in self._handles if guard.gave_up(place)]:
            for handle in self._handles.pop(place):
                handle.remove()

    def _detach(self) -> None:
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles = {}

    def _attach(self, stack: StackPlan) -> None:
        for index, path in enumerate(stack.blocks):
            block = self._model.get_submodule(path)
            before = BeforeBlock(self._recorder, stack.name, index)
            after = AfterBlock(self._recorder, stack.name, index)
            self._handles[f"{stack.name}/stream[{index + 1}]"] = [
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
            ]
            self._attach_window(stack, index)
        self._attach_branches(stack.name, "attention", stack.attention)
        self._attach_branches(stack.name, "feed_forward", stack.feed_forward)
        if "norm_inputs" in self._wanted.sites:
            self._attach_norms(stack, NORM_INPUTS[0], stack.attention_norm)
            self._attach_norms(stack, NORM_INPUTS[1], stack.feed_forward_norm)

    def _attach_window(self, stack: StackPlan, index: int) -> None:
        """Look for the attention call only where it can be: each torch call looked at costs."""
        if "attention_logits" in self.dropped_sites or not self._windowed:
            return
        before, after = BeforeAttention(self._open_view), AfterAttention(self._close_view)
        output = self._model.get_submodule(stack.attention[index] or "")
        projections = [self._model.get_submodule(path) for path in stack.projections[index]]
        self._handles[f"{stack.name}/attention_logits[{index}]"] = [
            *(projection.register_forward_hook(before) for projection in projections),
            output.register_forward_pre_hook(after),
        ]

    def _attach_branches(self, stack: str, site: str, paths: tuple[str | None, ...]) -> None:
        for index, path in enumerate(paths):
            if path is not None and site not in self.dropped_sites:
                after = AfterBranch(self._recorder, stack, site, index)
                handle = self._model.get_submodule(path).register_forward_hook(after)
                self._handles[f"{stack}/{site}[{index}]"] = [handle]

    def _attach_norms(self, stack: StackPlan, site: str, paths: tuple[str | None, ...]) -> None:
        for index, path in enumerate(paths):
            norm = None if path is None else self._model.get_submodule(path)
            # A norm computed by the block itself, of a parameter it holds, is no module.
            if norm is not None and not any(norm.children()) and site not in self.dropped_sites:
                before = BeforeNorm(self._recorder, stack.name, site, index)
                handle = norm.register_forward_pre_hook(before, with_kwargs=True)
                self._handles[f"{stack.name}/{site}[{index}]"] = [handle]

    def _attach_head(self) -> None:
        blocks = tuple(path for stack in self.plan.stacks for path in stack.blocks)
        path = head_of(self._model, blocks)
        if path is not None and "log_z" not in self.dropped_sites:
            after = AfterHead(self._recorder)
            handle = self._model.get_submodule(path).register_forward_hook(after)
            self._handles["/log_z[0]"] = [handle]

    def _begin_pass(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder = self._recorder
        if not recorder.active:
            return
        started = time.perf_counter()
        with recorder.guard.at("model input"):
            self._end_pass()
            if recorder.wants(module):
                self._follow_device()
                self.begin(args, kwargs)
                recorder.spend(ONCE, started)
                started = time.perf_counter()
                recorder.masks = padding_masks(kwargs, [stack.name for stack in self.plan.stacks])
                self._in_pass, self._may_view = True, self._can_view()
                if not self._windowed:
                    self._open_view()
        recorder.spend("pass", started)

    def _end_pass(self) -> None:
        self._close_view()
        if self._in_pass:
            self._in_pass = self._may_view = False
            self._recorder.finish_pass()

    def _open_view(self) -> None:
        # A checkpoint may leave a forward pass it runs again at any point.
        if self._may_view and not self._viewing and not in_backward():
            self._view.__enter__()  # type: ignore[no-untyped-call]
            self._viewing = True

    def _close_view(self) -> None:
        if self._viewing:
            self._viewing = False
            self._view.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _can_view(self) -> bool:
        # A mode on torch's stack would make compiled parts compile again.
        wanted = "attention_logits" not in self.dropped_sites
        return wanted and not self._recorder.compiled and not self._has_compiled_block()

    def _follow_device(self) -> None:
        device = _device_of(self._model)
        if device != self._recorder.accumulator.device:
            self._recorder.follow(self.plan, device)

    def _has_compiled_block(self) -> bool:
        return any(map(_is_compiled, self._blocks))


def _has_windows(plan: Plan, model: nn.Module) -> bool:
    """Whether every block's attention call lies between modules without parts of their own."""
    windows = [
        (*projections, output) if projections and output else ()
        for stack in plan.stacks
        for projections, output in zip_longest(stack.projections, stack.attention, fillvalue=())
    ]
    around = [model.get_submodule(path) for window in windows for path in window]
    return all(windows) and not any(any(module.children()) for module in around)


def _is_compiled(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or type(module).__name__ == "OptimizedModule"


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
