"""What a hook does with a tensor: count it once, on the device, and never fail the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.capture.forward_passes import ForwardPasses
from trainer_agent.capture.gradient_hooks import (
    BackwardPasses,
    GradientHooks,
    in_backward,
    on_gradient,
)
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.listeners import BackwardListener, StreamListener
from trainer_agent.capture.loss_gradients import TRANSFORMED, is_of_loss
from trainer_agent.capture.notes import Notes
from trainer_agent.capture.orientation import Orientation
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.padding import fitting
from trainer_agent.capture.stack_ends import StreamListeners
from trainer_agent.capture.statistics.accumulator import Accumulator
from trainer_agent.capture.statistics.logits import PendingLogits, QuerySample, log_z_sums
from trainer_agent.capture.statistics.tensor_sums import TensorReduction, TensorSums
from trainer_agent.capture.stream_gradients import StreamGradient, StreamGradients
from trainer_agent.capture.token_axis import TokenAxes, batch_first
from trainer_agent.capture.transforms import is_transformed
from trainer_agent.model.dtensor import local_part
from trainer_agent.model.plan import BRANCHES, Plan, rows_kept, stage_suffix

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
# What was counted of a gradient: its stack's first block, its place, and its sums.
CountedGradient = tuple[str, int, TensorSums]
# What was seen of a place in evaluation mode: its stack's first block, site, index, and the sums.
Deferred = tuple[str, str, int, TensorSums | QuerySample]
# No mode of torch functions, the job's or the description's own, sees what is called within.
_unseen = torch._C.DisableTorchFunction

IN_EVALUATION = "the model trains in evaluation mode (`model.eval()`), without dropout"
MORE_CALLS = (
    "a pass makes more calls of a shared block than the pass that was read: the calls beyond count "
    "as another pass's, so that layers are means over both"
)


class Recorder:
    """Adds up the sums of tensors while a sampled step runs.

    A tensor counts when its module is in training mode with gradients enabled. Each forward
    pass counts it once, however often a checkpoint runs it again, and its gradient as the sum of
    what all backward passes over it bring. The forward passes of a step add up: those of
    micro-batches, of a closure, of several losses alike. The methods are called by hooks, inside
    the training thread or, for gradients, inside autograd's.

    Attributes:
        active: whether the step now running is sampled; set by `start` and `stop`.
        accumulator: the buffer that is filled; another one after `restart` and `relabel`.
    """

    # Plain attributes, though only this class sets them: the code of a property would have to be
    # read from memory in every step, which takes the training thread 2 µs each.

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        guard: Guard,
        account: OverheadAccount,
        *,
        notes: Notes | None = None,
        axes: TokenAxes | None = None,
    ) -> None:
        self._guard, self._account, self._notes = guard, account, notes or Notes()
        self._orientation = Orientation(axes or TokenAxes(), self._notes)
        self.active = self._compiled = self._ran = self._half = False
        self._layers: frozenset[int] | None = None
        self._layers_before: Mapping[str, int] = {}
        self._arguments: Arguments | None = None
        self._block: tuple[str, int] | None = None
        self._listeners = StreamListeners(self._orientation)
        self._deferred: list[Deferred] | None = None
        self.trains_in_evaluation = False
        self._gradient_hooks, self._backward = GradientHooks(), BackwardPasses()
        self._gradients = StreamGradients(self._withdraw, self._notes)
        # Of blocks that a reentrant checkpoint has run again in this step.
        self._recomputed: dict[tuple[str, int], StreamGradient[CountedGradient | None]] = {}
        self.restart(plan, device)

    def restart(self, plan: Plan, device: torch.device) -> None:
        """Start empty, with the rows of `plan`, on the device that the model is on now."""
        self._plan = plan
        self.accumulator = Accumulator(plan, device)
        self._logits = PendingLogits(self.accumulator, plan.heads)
        self._passes = ForwardPasses()
        self._tops = {stack.name: len(stack.blocks) for stack in plan.stacks}
        self._first_blocks = {stack.name: stack.blocks[0] for stack in plan.stacks}
        self._stacks = {path: name for name, path in self._first_blocks.items()}
        self._rows = {
            (place.stack, place.site): place.first for place in (*plan.places, *plan.logit_places)
        }
        self._orientation.follow(plan)
        self._repeats = "norm_inputs" in plan.requested.sites
        self._reduction = self._reduction_to(plan.requested.costly)
        self._settle_by(plan)

    def relabel(self, plan: Plan, device: torch.device) -> None:
        """Go on with the rows of `plan`, and with what was counted of the blocks that it has.

        The running pass may have shown that a stack is the encoder, or how many heads it has.
        """
        plan_before, accumulator, logits = self._plan, self.accumulator, self._logits
        passes = self._passes
        self.restart(plan, device)
        rows = rows_kept(plan_before, plan)
        self.accumulator.adopt(accumulator, rows)
        self._logits.adopt(logits, rows.logits)
        self._passes.adopt(passes, rows.stacks)
        self._orientation.rename(rows.stacks)

    def drop_quantities(self) -> None:
        """Take no sums beyond the moments from now on."""
        self._reduction = self._reduction_to(frozenset())

    def _reduction_to(self, quantities: frozenset[str]) -> TensorReduction:
        return TensorReduction(quantities, self.accumulator.wide, repeats=self._repeats)

    @property
    def compiled(self) -> bool:
        """Whether torch.compile has traced a hook."""
        return self._compiled

    @property
    def eager(self) -> bool:
        """Whether a block has run, and none was traced."""
        return self._ran and not self._compiled

    def start(self) -> None:
        """Count from here on."""
        self.active = True

    def stop(self) -> None:
        """Count nothing from here on."""
        self.active = False

    def subscribe(self, listener: StreamListener, suffix: str = "") -> None:
        """Give a listener the stacks of the chunk whose names end with `suffix`."""
        self._listeners.subscribe(listener, suffix)

    def subscribe_backward(self, listener: BackwardListener) -> None:
        """Tell a listener of the backward passes of sampled steps."""
        self._backward.subscribe(listener)

    def end_step(self) -> None:
        """Count what waited for the step's end, and let go what belongs to it."""
        started = time.perf_counter()
        with self._guard.at("stream_gradient"):
            self._gradients.end_step()
        self.release()
        self._account.charge("stream_gradient", started)

    def release(self) -> None:
        """Let go what belongs to the running step."""
        self._gradients.forget()
        self._gradient_hooks.end_step()
        self._recomputed = {}

    def count_layers(self, layers: frozenset[int] | None, before: Mapping[str, int]) -> None:
        """Count these layers of the whole model, or all; compiled graphs count all of them.

        `before` says, by stack, how many layers lie in earlier stages of a pipeline.
        """
        self._layers, self._layers_before = layers, before

    def wants(self, module: nn.Module) -> bool:
        """Whether what `module` now computes belongs to the sampled step."""
        wants = self.active and torch.is_grad_enabled()
        if not module.training and torch.compiler.is_compiling():
            return False
        if not wants or torch.compiler.is_compiling() or not is_transformed():
            return wants
        self._notes.say("transforms", TRANSFORMED)
        return False

    def note_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a compiled forward pass of the running step was given."""
        self._arguments = args, kwargs

    def take_arguments(self) -> Arguments | None:
        """What `note_arguments` noted in this step, once."""
        arguments, self._arguments = self._arguments, None
        return arguments

    def begin_pass(
        self,
        suffix: str,
        masks: dict[str, Tensor | None],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """A chunk's forward pass begins: what lies outside its stacks counts anew.

        `masks` holds padding masks, (batch, seq), by stack; the rest is what forward is given.
        """
        self._orientation.begin_pass(masks, args, kwargs or {})
        for stack in masks:
            self._passes.expect(stack)
        self._passes.begin(suffix)

    def enter_block(self, stack: str, index: int, *, training: bool = True) -> bool:
        """A block starts; the first one of a pass begins it, unless it is a recomputation.

        What a block in evaluation mode shows counts once a backward pass has come for it.

        Returns:
            Whether its input is the stack's.
        """
        if is_transformed():
            return index == 0
        again = in_backward()
        begins = not again and self._passes.begins(stack, index)
        if training or again:
            self._deferred = None
        elif begins or self._deferred is None:
            self._deferred = []
        self._block = (stack, index)
        self._ran = True
        # A reentrant checkpoint runs blocks again inside the backward pass.
        if again:
            with self._guard.at(f"{stack}/recomputation[{index}]"):
                self._enter_again(stack, index)
            return self._passes.has_begun(stack, index)
        if begins:
            self._backward.forward_begins()
            self._passes.begin(stack)
            self._passes.begin(stage_suffix(stack))
            self._passes.began(stack, index)
        self._passes.enter(stack, index)
        return begins

    def shared_layer(self, stack: str, layers: Sequence[int]) -> int:
        """Which of the layers that share a block is now called."""
        again = in_backward()
        if not again and torch.is_grad_enabled() and self._passes.is_called_out(stack, layers):
            self._notes.say("shared blocks", MORE_CALLS)
        return self._passes.shared_layer(stack, layers, again=again)

    def running_layer(self, stack: str, otherwise: int) -> int:
        """The layer of the block that runs."""
        block = self._block
        return otherwise if block is None or block[0] != stack else block[1]

    def _enter_again(self, stack: str, index: int) -> None:
        # Called inside the job's own backward pass. The hooks of a reentrant checkpoint's streams
        # are called inside the checkpoint's, which ends before the job's does.
        self._backward.reached(half=self._half)
        gradient = self._recomputed.get((stack, index + 1))
        same_pass = gradient is not None and gradient.waiting is not None
        self._passes.recompute(stack, index, same_pass=same_pass)

    def leave_block(self) -> None:
        """The running block is over: attention calls belong to no block."""
        self._block = None
        self._orientation.forget()

    def stream(self, stack: str, index: int, x: Tensor) -> None:
        """Count the residual stream at a place, and later its gradient."""
        if torch.compiler.is_compiling():
            self._trace_stream(stack, index, x)
            return
        # try and except, not the guard's context: this runs once a block, and a context manager
        # takes three more calls.
        started = time.perf_counter()
        try:
            if self._passes.first_time(stack, "stream", index):
                with _unseen():
                    self._count_stream(stack, index, x)
            elif (stack, index) in self._recomputed and x.requires_grad:
                # Another backward pass over the same forward pass.
                self._follow(stack, index, x, self._recomputed[stack, index])
        except Exception as error:
            self._guard.note(f"{stack}/stream[{index}]", error)
        self._account.charge("stream", started)

    def branch(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count what a branch adds to the stream."""
        started = time.perf_counter()
        try:
            if self._passes.first_time(stack, site, index) and self._counts(stack, index):
                with _unseen():
                    self._count_at(stack, site, index, x)
                    if site in BRANCHES:
                        self._count_bits(stack, site, index, x)
                self._half |= x.dtype == torch.float16
        except Exception as error:
            self._guard.note(f"{stack}/{site}[{index}]", error)
        self._account.charge(site, started)

    def row(self, stack: str, site: str, index: int) -> Tensor:
        """The row of a place as a tensor (1,), for compiled code that counts it."""
        row = self._rows[stack, site] + index
        return torch.arange(row, row + 1, device=self.accumulator.device)

    def trace_branch(self, stack: str, row: Tensor, x: Tensor) -> None:
        """Have what a branch adds counted inside a compiled graph; `row` as `row` gives it."""
        self._count(row, *self._orientation.batch_first(stack, x))

    def logits(self, sample: Callable[[], QuerySample | None]) -> None:
        """Note the logits of the first attention call of the running block.

        A call that cannot be read is the first one, too: what follows is other attention.
        """
        # Attention outside of blocks, of a pooling head say, belongs to no row.
        if self._block is None or not self.active or not torch.is_grad_enabled():
            return
        if is_transformed():
            return
        started = time.perf_counter()
        stack, index = self._block
        with self._guard.at(f"{stack}/attention_logits[{index}]"), _unseen():
            first = self._passes.first_time(stack, "attention_logits", index)
            counts = first and self._counts(stack, index)
            tells = self._orientation.is_unsettled(stack)
            call = sample() if counts or tells else None
            if call is not None and tells:
                self._settle(stack, self._orientation.by_attention(stack, call.of))
            if counts and call is not None:
                if self._deferred is None:
                    self._logits.add(self._rows[stack, "attention_logits"] + index, call)
                else:
                    place = self._first_blocks[stack], "attention_logits", index
                    self._deferred.append((*place, call))
        self._account.charge("attention_logits", started)

    def heads_apart(self, scores: Tensor) -> Tensor | None:
        """Scores of the running block, (batch x heads, seq, seq), with an axis for the heads.

        None where they belong to no block, or are no attention.
        """
        if self._block is None or not self.active or torch.compiler.is_compiling():
            return None
        return self._orientation.heads_apart(self._block[0], scores)

    def finish_pass(self) -> None:
        """Count what was only noted during a forward pass."""
        started = time.perf_counter()
        with self._guard.at("attention_logits"):
            self._logits.flush()
        self._account.charge("attention_logits", started)

    def final_logits(self, suffix: str, logits: Tensor) -> None:
        """Count log Z of a chunk's final logits, (batch, seq, vocabulary)."""
        mask = fitting(self._orientation.padding(suffix), logits)
        if torch.compiler.is_compiling():
            self.accumulator.add_log_z(log_z_sums(logits, mask))
            return
        started = time.perf_counter()
        with self._guard.at("log_z"):
            self.accumulator.add_log_z(log_z_sums(logits, mask))
        self._account.charge("log_z", started)

    def _counts(self, stack: str, index: int) -> bool:
        return self._layers is None or index + self._layers_before.get(stack, 0) in self._layers

    def _settle(self, stack: str, axis: int | None) -> None:
        """Take the token axis of a stack that was told, and count again what came before."""
        early = None if axis is None else self._orientation.settle(stack, axis)
        if early is None:
            return
        if self._deferred is not None:
            self._deferred.clear()
        for row, x, version, sums in early:
            self.accumulator.subtract(row, sums)
            if x._version == version:
                self._add_sums(row, *self._orientation.batch_first(stack, x))
        self._listeners.turned(stack)

    def _settle_by(self, plan: Plan) -> None:
        """Take the token axes that a forward pass has told where attention calls could not."""
        for stack in plan.stacks:
            if stack.token_axis is not None and self._orientation.is_unsettled(stack.name):
                self._settle(stack.name, stack.token_axis)

    def _count_at(self, stack: str, site: str, index: int, x: Tensor) -> None:
        tokens, mask = self._orientation.batch_first(stack, x)
        if self._deferred is None or stack not in self._first_blocks:
            row = self._rows[stack, site] + index
            sums = self._add_sums(row, tokens, mask)
            if sums is not None and self._block and self._orientation.is_unsettled(stack):
                self._orientation.remember(row, x, sums)
            return
        part = local_part(tokens)
        if part is not None:
            sums = self._reduction.sums(part, mask if part is tokens else fitting(mask, part))
            # The stack goes by its first block: until then it may get another name.
            self._deferred.append((self._first_blocks[stack], site, index, sums))

    def _count_bits(self, stack: str, site: str, index: int, x: Tensor) -> None:
        part = local_part(x) if self._deferred is None else None
        if part is not None and part.is_floating_point():
            self.accumulator.add_significands(self._rows[stack, site] + index, part)

    def _count_deferred(self, deferred: list[Deferred], _g: Tensor) -> None:
        """Count what a pass in evaluation mode has shown: the job does train by it."""
        if not self.active:
            return
        self.trains_in_evaluation = True
        self._notes.say("evaluation mode", IN_EVALUATION)
        with self._guard.at("evaluation mode"):
            while deferred:
                first_block, site, index, content = deferred.pop(0)
                row = self._rows[self._stacks[first_block], site] + index
                if isinstance(content, TensorSums):
                    self._add(row, content)
                else:
                    self._logits.add(row, content)
            self._logits.flush()

    def _count(self, row: int | Tensor, x: Tensor, mask: Tensor | None) -> None:
        self._add_sums(row, x, mask)  # which compiled code cannot return

    def _add_sums(self, row: int | Tensor, x: Tensor, mask: Tensor | None) -> TensorSums | None:
        part = local_part(x)
        if part is not x:  # the other processes count theirs
            return None if part is None else self._add_sums(row, part, fitting(mask, part))
        sums = self._reduction.sums(x, mask)
        self._add(row, sums)
        return sums

    def _add(self, row: int | Tensor, sums: TensorSums) -> None:
        self.accumulator.add(row, sums.moments)
        if sums.extra is not None:
            self.accumulator.add_extra(row, *sums.extra)
        if sums.gram is not None:
            self.accumulator.set_gram(row, sums.gram)

    def _count_stream(self, stack: str, index: int, x: Tensor) -> None:
        if index == 0:
            self._settle(stack, self._orientation.by_input(stack, x))
        if self._counts(stack, index):
            self._count_at(stack, "stream", index, x)
        self._half |= x.dtype == torch.float16
        if self._deferred is not None and index == self._tops[stack] and x.requires_grad:
            on_gradient(x, partial(self._count_deferred, self._deferred))
        mask = self._orientation.padding(stack)
        if index == 0 and (self._deferred is None or self.trains_in_evaluation):
            self._listeners.stack_input(stack, x, mask)
        if x.requires_grad:
            # The stack goes by its first block: until then it may get another name.
            count = partial(self._count_gradient, self._first_blocks[stack], index, mask)
            gradient = StreamGradient(count)
            if in_backward():
                self._recomputed[stack, index] = gradient
            self._follow(stack, index, x, gradient)

    def _follow(
        self,
        stack: str,
        index: int,
        x: Tensor,
        gradient: StreamGradient[CountedGradient | None],
    ) -> None:
        call = partial(self._on_gradient, self._first_blocks[stack], index, gradient)
        self._gradient_hooks.add(stack, index, x, call)

    def _on_gradient(
        self,
        first_block: str,
        index: int,
        gradient: StreamGradient[CountedGradient | None],
        g: Tensor,
    ) -> None:
        if not self.active:
            return
        started = time.perf_counter()
        try:
            call = self._backward.call()
            if is_of_loss(call, gradient, g, self._notes):
                self._backward.reached(half=self._half)
                self._gradients.add(gradient, g, retains=call.retains)
        except Exception as error:
            stack = self._stacks.get(first_block, "")
            self._guard.note(f"{stack}/stream_gradient[{index}]", error)
        self._account.charge("stream_gradient", started)

    def _count_gradient(
        self, first_block: str, index: int, mask: Tensor | None, g: Tensor
    ) -> CountedGradient | None:
        stack = self._stacks.get(first_block, "")
        sums = None
        if self._counts(stack, index):
            row = self._rows[stack, "stream_gradient"] + index
            sums = self._add_sums(row, *batch_first(g, mask, self._orientation.axis(stack)))
        if index == self._tops[stack]:
            self._listeners.top_gradient(stack, g, mask)
        return None if sums is None else (first_block, index, sums)

    def _withdraw(self, counted: CountedGradient | None) -> None:
        if counted is not None:
            first_block, index, sums = counted
            row = self._rows[self._stacks[first_block], "stream_gradient"] + index
            self.accumulator.subtract(row, sums)

    def _trace_stream(self, stack: str, index: int, x: Tensor) -> None:
        # Inside a compiled graph there is no clock, no guard and no listener, only the sums.
        self._compiled = True
        self._count(self._rows[stack, "stream"] + index, *self._orientation.batch_first(stack, x))
        if x.requires_grad:
            row = self._rows[stack, "stream_gradient"] + index
            on_gradient(x, lambda g: self._count(row, *self._orientation.batch_first(stack, g)))
