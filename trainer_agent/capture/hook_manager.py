"""The hooks on a model: which are set, and what happens around its own forward pass."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.attention import AttentionInterception
from trainer_agent.capture.attention.span import AttentionSpans
from trainer_agent.capture.gradient_hooks import in_backward
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_handles import HookHandles
from trainer_agent.capture.hooks import (
    AfterBlock,
    AfterBranch,
    AfterLMHead,
    AfterModel,
    AfterSharedBlock,
    BeforeBlock,
    BeforeModel,
    BeforeNorm,
    BeforeSharedBlock,
    CompiledCall,
    EdgeAfter,
    EdgeBefore,
    is_compiled_in_place,
)
from trainer_agent.capture.listeners import PassListener
from trainer_agent.capture.model_state import BlockSlots, device_of, has_compiled_parts
from trainer_agent.capture.overhead_account import ONCE, OverheadAccount
from trainer_agent.capture.padding import padding_masks
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics.accumulator import Scalar
from trainer_agent.capture.step_loss import StepLoss, returned_loss
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.lm_head import lm_head_of
from trainer_agent.model.plan import NORM_INPUTS, Plan, StackPlan, settled, stage_suffix
from trainer_agent.model.reference import refer_to

# Sites given up, costliest first, where a budget cannot be kept otherwise.
DISPENSABLE = ("attention_logits", "attention", "feed_forward")
# Stands for every quantity that the user added, which go first.
QUANTITIES = "quantities"
# Forward passes that begin with a search for functions to patch: the first may define more.
SEARCHED_PASSES = 2
# What torch 2.13 calls the function that runs a pipeline's stage to learn the shapes it puts out.
SHAPE_INFERENCE = "_forward_metadata_inference"
MAX_FRAMES = 32


class HookManager:
    """Sets the hooks that feed a `Recorder`. While that is not active each returns at once.

    Attributes:
        plan: the places measured; set by `apply`. No property, as the recorder's attributes.
    """

    def __init__(
        self,
        model: nn.Module,
        chunks: Sequence[Chunk],
        plan: Plan,
        recorder: Recorder,
        *,
        guard: Guard,
        account: OverheadAccount,
    ) -> None:
        self._reference, self._chunks, self._recorder = refer_to(model), chunks, recorder
        self._guard, self._account = guard, account
        self._requested = plan.requested
        self._dropped: list[str] = []
        self._listeners: dict[str, PassListener] = {}
        charge = partial(account.add, "attention_logits")
        self._interception = AttentionInterception(recorder.logits, charge, recorder.heads_apart)
        self._running: Chunk | None = None
        self._trains = True  # the running pass, as far as is known
        self._returned_loss = StepLoss()
        self._may_intercept = self._in_shape_inference = False
        self._handles = HookHandles()
        self._model_handles = [handle for chunk in chunks for handle in self._around(chunk)]
        self.apply(plan)

    @property
    def _model(self) -> nn.Module:
        return self._reference()

    @property
    def dropped_sites(self) -> tuple[str, ...]:
        """Sites given up because they cost too much."""
        return tuple(self._dropped)

    def subscribe(self, listener: PassListener, chunk: Chunk | None = None) -> None:
        """Tell a listener of the sampled steps of a chunk, None for the only one."""
        suffix = self._chunks[0].suffix if chunk is None else chunk.suffix
        self._listeners[suffix] = listener
        self._recorder.subscribe(listener, suffix)

    def apply(self, plan: Plan, *, keep: bool = False) -> None:
        """Measure the places of `plan` from now on, and what the first plan requested beyond.

        Start empty, or `keep` what was counted of the blocks that both plans hold.
        """
        self._handles.clear()
        sites = tuple(settled(site, plan.stacks) for site in self._requested.custom)
        self.plan = plan = replace(plan, requested=replace(self._requested, custom=sites))
        self._searches_left = SEARCHED_PASSES
        self._blocks = BlockSlots(plan, self._model)
        self._has_compiled_parts = has_compiled_parts(self._model)
        self._spans = AttentionSpans(self._model, plan, self._intercept, self._interception.stop)
        restart = self._recorder.relabel if keep else self._recorder.restart
        restart(plan, device_of(self._model))
        if QUANTITIES in self._dropped:
            self._recorder.drop_quantities()
        for stack in plan.stacks:
            self._attach(stack)
        for custom in plan.requested.custom:
            self._attach_branches(custom.stack, custom.name, custom.paths)
        if plan.log_z_places:
            self._attach_lm_head()

    def switch(self, *, on: bool) -> None:
        """Measure from here on, or not. While off, the hooks are away where that is safe."""
        if on:
            self._recorder.start()
            self._handles.unpark()
            return
        self._recorder.stop()
        # A compiled module must keep its hooks: torch reads them only while it compiles.
        if self._recorder.eager and not self._has_compiled_parts:
            self._handles.park()

    def drop_costliest_site(self) -> bool:
        """Give up the costliest of the sites one can do without; whether there was one."""
        if self._requested.costly and QUANTITIES not in self._dropped:
            self._dropped.append(QUANTITIES)
            self._recorder.drop_quantities()
            return True
        optional = (*NORM_INPUTS, *(site.name for site in self._requested.custom), "log_z")
        candidates = [site for site in (*optional, *DISPENSABLE) if site not in self._dropped]
        if not candidates:
            return False
        site = max(candidates, key=self._account.of)
        self._dropped.append(site)
        self._handles.remove_if(lambda place: f"/{site}[" in place)
        return True

    def drop_failing(self) -> None:
        """Take away the hooks of places that fail again and again."""
        self._handles.remove_if(self._guard.gave_up)

    def count(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count a tensor that no hook was given, because its module was not known to be a site."""
        if site not in self._dropped:
            self._recorder.branch(stack, site, index, x)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let forward passes go by uncounted."""
        self._recorder.stop()
        try:
            yield
        finally:
            self._recorder.start()

    def remove(self) -> None:
        """Take every hook away."""
        self._end_pass()
        self._recorder.stop()
        self._recorder.release()
        self._handles.clear()
        for handle in self._model_handles:
            handle.remove()
        self._blocks.clear()
        self._interception.forget()

    def take_returned_loss(self) -> Scalar | None:
        """The mean of the losses that the model's forward returned since the last call, or None."""
        return self._returned_loss.take_mean()

    def _around(self, chunk: Chunk) -> tuple[RemovableHandle, RemovableHandle]:
        before = BeforeModel(self._recorder, partial(self._begin_pass, chunk))
        # Called where the forward raised, too.
        return (
            chunk.module.register_forward_pre_hook(before, with_kwargs=True),
            chunk.module.register_forward_hook(AfterModel(self._end_pass), always_call=True),
        )

    def _attach(self, stack: StackPlan) -> None:
        self._attach_edges(stack)
        for index, path in enumerate(stack.blocks):
            if path in stack.blocks[:index]:
                continue
            self._attach_block(stack, index)
        self._attach_branches(stack.name, "attention", stack.attention, stack.attention_factors)
        factors = stack.feed_forward_factors
        self._attach_branches(stack.name, "feed_forward", stack.feed_forward, factors)
        if "norm_inputs" in self._requested.sites:
            self._attach_norms(stack, NORM_INPUTS[0], stack.attention_norm)
            self._attach_norms(stack, NORM_INPUTS[1], stack.feed_forward_norm)

    def _attach_edges(self, stack: StackPlan) -> None:
        for index, edge in enumerate(stack.edges):
            # The root's output is counted as its pass ends: its own hooks are not to change now.
            if edge.module:
                module, ends = self._model.get_submodule(edge.module), len(stack.blocks)
                place, of = f"{stack.name}/stream[{index}]", (self._recorder, stack.name, index)
                if edge.is_input:
                    before, add = EdgeBefore(*of, ends), module.register_forward_pre_hook
                    self._handles.add(place, add(before, with_kwargs=True))
                else:
                    self._handles.add(place, module.register_forward_hook(EdgeAfter(*of, ends)))

    def _attach_block(self, stack: StackPlan, index: int) -> None:
        if not stack.edges:
            block = self._model.get_submodule(stack.blocks[index])
            before, after = self._block_hooks(stack, index)
            place = f"{stack.name}/stream[{index + 1}]"
            if is_compiled_in_place(block):
                self._handles.add(place, CompiledCall(block, before, after))
            else:
                self._handles.add(
                    place,
                    block.register_forward_pre_hook(before, with_kwargs=True),
                    block.register_forward_hook(after),
                )
        if "attention_logits" not in self._dropped and not self._has_compiled_parts:
            span = self._spans.attach(stack, index)
            self._handles.add(f"{stack.name}/attention_logits[{index}]", *span)

    def _block_hooks(self, stack: StackPlan, index: int) -> tuple[BeforeBlock, AfterBlock]:
        recorder, path = self._recorder, stack.blocks[index]
        layers = [at for at, block in enumerate(stack.blocks) if block == path]
        if len(layers) == 1:
            before, after = BeforeBlock, AfterBlock
            return before(recorder, stack.name, index), after(recorder, stack.name, index)
        return (
            BeforeSharedBlock(recorder, stack.name, layers),
            AfterSharedBlock(recorder, stack.name, index),
        )

    def _attach_branches(
        self,
        stack: str,
        site: str,
        paths: tuple[str | None, ...],
        factors: tuple[float, ...] = (),
    ) -> None:
        for index, (path, factor) in enumerate(zip_longest(paths, factors, fillvalue=1.0)):
            if isinstance(path, str) and site not in self._dropped and path not in paths[:index]:
                is_shared = paths.count(path) > 1
                after = AfterBranch(
                    self._recorder, stack, site, index, factor or 1.0, is_shared=is_shared
                )
                handle = self._model.get_submodule(path).register_forward_hook(after)
                self._handles.add(f"{stack}/{site}[{index}]", handle)

    def _attach_norms(self, stack: StackPlan, site: str, paths: tuple[str | None, ...]) -> None:
        for index, path in enumerate(paths):
            norm = None if path is None else self._model.get_submodule(path)
            # A norm computed by the block itself, of a parameter it holds, is no module.
            is_repeated = path in paths[:index]
            if is_repeated or norm is None or any(norm.children()):
                continue
            if site not in self._dropped:
                is_shared = paths.count(path) > 1
                before = BeforeNorm(self._recorder, stack.name, site, index, is_shared=is_shared)
                handle = norm.register_forward_pre_hook(before, with_kwargs=True)
                self._handles.add(f"{stack.name}/{site}[{index}]", handle)

    def _attach_lm_head(self) -> None:
        blocks = tuple(path for stack in self.plan.stacks for path in stack.blocks)
        path = lm_head_of(self._model, blocks)
        if path is not None and "log_z" not in self._dropped:
            suffix = next(chunk.suffix for chunk in self._chunks if path.startswith(chunk.prefix))
            after = AfterLMHead(self._recorder, suffix)
            handle = self._model.get_submodule(path).register_forward_hook(after)
            self._handles.add("/log_z[0]", handle)

    def _begin_pass(self, chunk: Chunk, module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder = self._recorder
        if not recorder.active:
            return
        started = time.perf_counter()
        with self._guard.at("model input"):
            self._end_pass()
            if chunk.stage is not None and in_shape_inference():
                recorder.stop()
                self._in_shape_inference = True
            elif recorder.wants(module):
                self._keep_up_with_model()
                # An evaluation without `torch.no_grad` says nothing of how the job trains.
                self._trains = module.training or recorder.trains_in_evaluation
                if chunk.suffix in self._listeners and self._trains:
                    self._listeners[chunk.suffix].pass_begins(args, kwargs)
                self._may_intercept = self._can_intercept()
                self._search_patch_points()
                self._account.charge(ONCE, started)
                started = time.perf_counter()
                masks = padding_masks(kwargs, self._stacks_of(chunk))
                recorder.begin_pass(chunk.suffix, masks, args, kwargs)
                self._running = chunk
        self._account.charge("pass", started)

    def _end_pass(self, output: Any = None) -> None:
        self._interception.stop()
        if self._in_shape_inference:
            self._in_shape_inference = False
            self._recorder.start()
        chunk, self._running = self._running, None
        if chunk is not None:
            self._may_intercept = False
            self._leave_at(chunk, output)
            if self._trains:
                self._returned_loss.add(returned_loss(output))
            if chunk.suffix in self._listeners and self._trains:
                with self._guard.at("model output"):
                    self._listeners[chunk.suffix].pass_ends(output)
            self._recorder.finish_pass()

    def _leave_at(self, chunk: Chunk, output: Any) -> None:
        """Count the stream that a stack of this chunk leaves as the model's own output."""
        for stack in self.plan.stacks:
            ends_here = stack.edges and not stack.edges[-1].module
            if ends_here and stage_suffix(stack.name) == chunk.suffix:
                after = EdgeAfter(self._recorder, stack.name, len(stack.blocks), len(stack.blocks))
                after(self._model, (), output)

    def _stacks_of(self, chunk: Chunk) -> list[str]:
        return [
            stack.name for stack in self.plan.stacks if stage_suffix(stack.name) == chunk.suffix
        ]

    def _keep_up_with_model(self) -> None:
        """Set the hooks anew where blocks were compiled, or the model moved, since."""
        moved = device_of(self._model) != self._recorder.accumulator.device
        if moved or self._blocks.changed():
            self.apply(self.plan)
        elif self._searches_left:
            self._has_compiled_parts = has_compiled_parts(self._model)

    def _can_intercept(self) -> bool:
        # A mode on torch's stack would make compiled parts compile again.
        compiled = self._recorder.compiled or self._has_compiled_parts
        return "attention_logits" not in self._dropped and not compiled

    def _search_patch_points(self) -> None:
        if self._may_intercept and self._searches_left:
            self._searches_left -= 1
            with self._guard.at("attention functions"):
                self._interception.find_patch_points(self._model)

    def _intercept(self) -> None:
        # Not in a checkpoint's recomputation, which may leave the forward pass at any point: the
        # mode would stay on torch's stack.
        if self._may_intercept and not in_backward():
            self._interception.start()


def in_shape_inference() -> bool:
    """Whether the forward pass that now begins runs on memory that torch has not filled.

    A pipeline's stage runs so before the first step, and whenever evaluation and training take
    turns. Called by a hook inside the pass.
    """
    frame = sys._getframe(1)
    for _ in range(MAX_FRAMES):
        if frame.f_code.co_name == SHAPE_INFERENCE:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
