"""The hooks on a model: which are set, and the model's own forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.attention import AttentionWindow
from trainer_agent.capture.compiled_calls import CompiledCall, is_compiled, is_compiled_in_place
from trainer_agent.capture.hooks import (
    AfterBlock,
    AfterBranch,
    AfterHead,
    AfterModel,
    BeforeBlock,
    BeforeModel,
    BeforeNorm,
    Moment,
)
from trainer_agent.capture.padding import padding_masks
from trainer_agent.capture.recorder import ONCE, Recorder, in_backward
from trainer_agent.capture.rehearsal import in_rehearsal
from trainer_agent.capture.statistics.log_z import head_of
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import NORM_INPUTS, Plan, StackPlan, mark_of, settled

# Sites given up, costliest first, where a budget cannot be kept otherwise.
DISPENSABLE = ("attention_logits", "attention", "feed_forward")
# Forward passes that begin by looking for functions to stand in for: the first one may make more.
LOOKS_AROUND = 2
# Stands for every quantity that the user added, which go first.
QUANTITIES = "quantities"

Begin = Callable[[tuple[Any, ...], Mapping[str, Any]], None]
End = Callable[[Any], None]


class Probe:
    """Sets the hooks that feed a `Recorder`. While that is not active each returns at once.

    Attributes:
        plan: the places measured.
        begin: told of a chunk's inputs before every sampled forward pass of it.
        end: told of its output after each of these; of None where the pass raised.
        running: the chunk whose forward pass began last; a model in one piece is one chunk.
        dropped_sites: sites given up because they cost too much.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, recorder: Recorder, chunks: Sequence[Chunk] = ()
    ) -> None:
        self._model, self._recorder = model, recorder
        chunks = chunks or (Chunk(model),)
        self._chunks, self.running = chunks, chunks[0]
        self.begin: Begin = lambda _args, _kwargs: None
        self.end: End = lambda _output: None
        self._window = AttentionWindow(recorder.logits, self._charge_view)
        self._in_pass = self._may_view = self._in_rehearsal = False
        self._model_handles = [handle for chunk in chunks for handle in self._around(chunk)]
        self._handles: dict[str, list[RemovableHandle | CompiledCall]] = {}
        self._wanted = plan.wanted
        self.dropped_sites: list[str] = []
        self._parked: list[tuple[RemovableHandle, Any]] = []
        self.follow(plan)

    def follow(self, plan: Plan, *, keep: bool = False) -> None:
        """Measure the places of `plan` from now on, and what the first plan wanted beyond.

        Start empty, or `keep` what was counted of the blocks that both plans hold.
        """
        self._detach()
        sites = tuple(settled(one, plan.stacks) for one in self._wanted.custom)
        self.plan = plan = replace(plan, wanted=replace(self._wanted, custom=sites))
        self._windowed = _has_windows(plan, self._model)
        self._looks_around = LOOKS_AROUND
        self._blocks = _places_of(plan, self._model)
        self._seen_as = self._look_at_blocks()
        self._has_compiled_parts = self._look_for_compiled_parts()
        follow = self._recorder.relabel if keep else self._recorder.follow
        follow(plan, _device_of(self._model))
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
        elif self._recorder.eager and not self._has_compiled_parts:
            self._park()

    def _park(self) -> None:
        # A module without hooks is called the short way. A compiled one must keep them: torch
        # looks at hooks only while it compiles.
        for handle in chain.from_iterable(self._handles.values()):
            if isinstance(handle, RemovableHandle):
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

    def count(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count a tensor that no hook has seen, because its module was not known to be a site."""
        if site not in self.dropped_sites:
            self._recorder.branch(stack, site, index, x)

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

    def _around(self, chunk: Chunk) -> tuple[RemovableHandle, RemovableHandle]:
        before = BeforeModel(self._recorder, partial(self._begin_pass, chunk))
        after = AfterModel(self._end_pass)
        return (
            chunk.module.register_forward_pre_hook(before, with_kwargs=True),
            chunk.module.register_forward_hook(after, always_call=True),
        )

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
            self._handles[f"{stack.name}/stream[{index + 1}]"] = (
                [CompiledCall(block, before, after)]
                if is_compiled_in_place(block)
                else [
                    block.register_forward_pre_hook(before, with_kwargs=True),
                    block.register_forward_hook(after),
                ]
            )
            self._attach_window(stack, index)
        self._attach_branches(stack.name, "attention", stack.attention)
        self._attach_branches(stack.name, "feed_forward", stack.feed_forward)
        if "norm_inputs" in self._wanted.sites:
            self._attach_norms(stack, NORM_INPUTS[0], stack.attention_norm)
            self._attach_norms(stack, NORM_INPUTS[1], stack.feed_forward_norm)

    def _attach_window(self, stack: StackPlan, index: int) -> None:
        """Look for the attention call only where it can be: each torch call looked at costs."""
        if "attention_logits" in self.dropped_sites or self._has_compiled_parts:
            return
        module = self._model.get_submodule
        before, after = Moment(self._open_view), Moment(self._window.close)
        if self._windowed:
            projections = [module(path) for path in stack.projections[index]]
            opening = [one.register_forward_hook(before) for one in projections]
            closing = module(stack.attention[index] or "").register_forward_pre_hook(after)
        else:
            opening = [module(stack.blocks[index]).register_forward_pre_hook(before)]
            closing = module(stack.blocks[index]).register_forward_hook(after)
        self._handles[f"{stack.name}/attention_logits[{index}]"] = [*opening, closing]

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
            mark = next(one.mark for one in self._chunks if path.startswith(one.prefix))
            after = AfterHead(self._recorder, mark)
            handle = self._model.get_submodule(path).register_forward_hook(after)
            self._handles["/log_z[0]"] = [handle]

    def _begin_pass(self, chunk: Chunk, module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder = self._recorder
        if not recorder.active:
            return
        started = time.perf_counter()
        with recorder.guard.at("model input"):
            self._end_pass()
            if chunk.stage is not None and in_rehearsal():
                recorder.active, self._in_rehearsal = False, True
            elif recorder.wants(module):
                self.running = chunk
                self._keep_up()
                self.begin(args, kwargs)
                self._may_view = self._can_view()
                self._look_around()
                recorder.spend(ONCE, started)
                started = time.perf_counter()
                recorder.begin_pass(chunk.mark)
                recorder.masks = padding_masks(kwargs, self._stacks_of(chunk))
                self._in_pass = True
        recorder.spend("pass", started)

    def _stacks_of(self, chunk: Chunk) -> list[str]:
        return [stack.name for stack in self.plan.stacks if mark_of(stack.name) == chunk.mark]

    def _end_pass(self, output: Any = None) -> None:
        self._window.close()
        if self._in_rehearsal:
            self._in_rehearsal, self._recorder.active = False, True
        if self._in_pass:
            self._in_pass = self._may_view = False
            with self._recorder.guard.at("model output"):
                self.end(output)
            self._recorder.finish_pass()

    def _look_around(self) -> None:
        if self._may_view and self._looks_around:
            self._looks_around -= 1
            with self._recorder.guard.at("attention functions"):
                self._window.look_around(self._model)

    def _open_view(self) -> None:
        # A checkpoint may leave a forward pass it runs again at any point.
        if self._may_view and not in_backward():
            self._window.open()

    def _charge_view(self, spent_s: float) -> None:
        self._recorder.spent_s["attention_logits"] += spent_s

    def _can_view(self) -> bool:
        # A mode on torch's stack would make compiled parts compile again.
        wanted = "attention_logits" not in self.dropped_sites
        return wanted and not self._recorder.compiled and not self._has_compiled_parts

    def _keep_up(self) -> None:
        """Hang the hooks anew where blocks were compiled, or the model moved, since."""
        moved = _device_of(self._model) != self._recorder.accumulator.device
        if moved or self._look_at_blocks() != self._seen_as:
            self._unpark()
            self.follow(self.plan)
        elif self._looks_around:
            self._has_compiled_parts = self._look_for_compiled_parts()

    def _look_at_blocks(self) -> tuple[tuple[int, bool], ...]:
        """Which modules are the blocks by now, and whether each is compiled by itself."""
        blocks = [held[name] for held, name in self._blocks]
        return tuple((id(block), is_compiled(block)) for block in blocks if block is not None)

    def _look_for_compiled_parts(self) -> bool:
        inside = (module for module in self._model.modules() if module is not self._model)
        return any(map(is_compiled, inside))


def _has_windows(plan: Plan, model: nn.Module) -> bool:
    """Whether every block's attention call lies between modules without parts of their own."""
    windows = [
        (*projections, output) if projections and output else ()
        for stack in plan.stacks
        for projections, output in zip_longest(stack.projections, stack.attention, fillvalue=())
    ]
    around = [model.get_submodule(path) for window in windows for path in window]
    return all(windows) and not any(any(module.children()) for module in around)


def _places_of(plan: Plan, model: nn.Module) -> tuple[tuple[dict[str, Any], str], ...]:
    """Where each block is kept: another may be put there, as ``torch.compile(block)`` is."""
    paths = (path.rpartition(".") for stack in plan.stacks for path in stack.blocks)
    return tuple((model.get_submodule(above)._modules, name) for above, _, name in paths)


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
