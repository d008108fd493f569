"""What a hook does with a tensor: count it once, on the device, and never fail the job."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from trainer_agent.capture.gradient_hooks import GradientHooks, on_gradient
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.padding import fitting
from trainer_agent.capture.statistics.accumulator import Accumulator
from trainer_agent.capture.statistics.extra import tail_sums, token_gram
from trainer_agent.capture.statistics.log_z import log_z_sums
from trainer_agent.capture.statistics.logits import Sampled
from trainer_agent.capture.statistics.moments import Row, moment_row
from trainer_agent.capture.statistics.pending_logits import PendingLogits
from trainer_agent.job.gradient_norm import is_partial, local
from trainer_agent.model.plan import Plan, mark_of, rows_kept
from trainer_agent.model.sites import RANKS

# What a description costs is charged here: it does not recur with every sample.
ONCE = "description"
# What a hook takes of the thread by what it takes itself: torch calls it, and the job reads again
# what it displaced. Measured on the CPU, 12 and 24 layers of width 64: 1.08 to 1.13.
AROUND = 1.1

Listener = Callable[[str, Tensor, Tensor | None], None]


def _ignore(stack: str, x: Tensor, mask: Tensor | None) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class _Pass:
    """The forward passes of one stack: their number, and in which a row was last counted."""

    number: int = 0
    counted: dict[tuple[str, int], int] = field(default_factory=dict)

    def first_time(self, site: str, index: int) -> bool:
        """Whether this pass has not counted the row yet; a checkpoint's second run has."""
        if self.counted.get((site, index)) == self.number:
            return False
        self.counted[site, index] = self.number
        return True


@dataclass(frozen=True, slots=True)
class _Taken:
    """What was taken of one tensor."""

    sums: Row
    tails: tuple[Tensor, Tensor] | None
    gram: Tensor | None


class Recorder:
    """Adds up moment sums while a sampled step runs.

    A tensor counts when its module is in training mode with gradients enabled. Each forward
    pass counts it once, however often a checkpoint runs it again; passes of several
    micro-batches add up. The methods are called by hooks, inside the training thread or, for
    gradients, inside autograd's.

    Attributes:
        active: whether the step now running is sampled.
        only: the layers to count, or None for all; compiled graphs count all of them.
        before: by stack, how many of its layers lie in earlier stages of a pipeline.
        masks: padding masks of the running forward pass, by stack.
        spent_s: seconds the agent took of the training thread since the start, by what for.
        compiled: whether torch.compile has traced a hook.
        given: arguments of a compiled forward pass of the running step, or None.
        on_input: told of the input of a stack's first block.
        on_top_gradient: told of the gradient of its last block's output.
        on_backward: told, as a backward pass reaches the first stream, whether float16 was seen.
        on_backward_end: told that it is over and the parameters have their gradients.
    """

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.active = False
        self.only: frozenset[int] | None = None
        self.before: Mapping[str, int] = {}
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self.compiled = False
        self.masks: dict[str, Tensor | None] = {}
        self.given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.on_input: Listener = _ignore
        self.on_top_gradient: Listener = _ignore
        self.on_backward: Callable[[bool], None] = lambda _half: None
        self.on_backward_end: Callable[[], None] = lambda: None
        self._hooks = GradientHooks()
        self._half = False
        self._backward = -1
        self._running: tuple[str, int] | None = None
        self._ran = False

    def follow(self, plan: Plan, device: torch.device) -> None:
        """Start empty, with the rows of `plan`."""
        self._plan = plan
        self.accumulator = Accumulator(plan, device)
        self._pending = PendingLogits(self.accumulator, plan.heads)
        self._passes: defaultdict[str, _Pass] = defaultdict(_Pass)  # by stack, and by chunk's mark
        self._tops = {stack.name: len(stack.blocks) for stack in plan.stacks}
        self._firsts = {stack.name: stack.blocks[0] for stack in plan.stacks}
        self._stacks = {first: name for name, first in self._firsts.items()}
        self._rows = {
            (place.stack, place.site): place.first for place in (*plan.places, *plan.logit_places)
        }
        # Of each chunk the stack whose mask holds outside its stacks.
        self._lasts = {mark_of(stack.name): stack.name for stack in plan.stacks}
        self._tails = plan.wanted.costly - set(RANKS)
        self._grams = bool(plan.wanted.costly & set(RANKS))
        self._repeats = "norm_inputs" in plan.wanted.sites
        self._newest: tuple[ref[Tensor], int, Tensor | None, _Taken] | None = None

    def relabel(self, plan: Plan, device: torch.device) -> None:
        """Go on with the rows of `plan`: what was counted of a stack is kept by its blocks.

        The running pass may have shown that a stack is the encoder, or how many heads it has.
        """
        plan_before, accumulator, pending = self._plan, self.accumulator, self._pending
        passes, masks = self._passes, self.masks
        self.follow(plan, device)
        rows = rows_kept(plan_before, plan)
        self.accumulator.adopt(accumulator, rows)
        self._pending.adopt(pending, rows.logits)
        names = rows.stacks
        self._passes.update({names[name]: n for name, n in passes.items() if name in names})
        self.masks = {names[name]: mask for name, mask in masks.items() if name in names}

    @property
    def eager(self) -> bool:
        """Whether blocks were seen running, and none was traced."""
        return self._ran and not self.compiled

    def wants(self, module: nn.Module) -> bool:
        """Whether what `module` now computes belongs to the sampled step."""
        return self.active and module.training and torch.is_grad_enabled()

    def spend(self, what: str, started: float) -> None:
        """Charge the time since `started`, as `time.perf_counter` gave it."""
        self.spent_s[what] += AROUND * (time.perf_counter() - started)

    def begin_pass(self, mark: str) -> None:
        """A chunk's forward pass begins: what lies outside its stacks counts anew."""
        self._passes[mark].number += 1

    def enter_block(self, stack: str, index: int) -> None:
        """A block starts; the first block's start is a new pass, unless it is a recomputation."""
        self._running = (stack, index)
        self._ran = True
        if index == 0 and not in_backward():
            self._passes[stack].number += 1
            self._passes[mark_of(stack)].number += 1

    def leave_block(self) -> None:
        """The running block is over: attention calls are nobody's."""
        self._running = None

    def stream(self, stack: str, index: int, x: Tensor) -> None:
        """Count the residual stream at a place, and later its gradient."""
        if torch.compiler.is_compiling():
            self._trace_stream(stack, index, x)
            return
        started = time.perf_counter()
        try:
            if self._passes[stack].first_time("stream", index):
                self._count_stream(stack, index, x)
        except Exception as error:
            self.guard.note(f"{stack}/stream[{index}]", error)
        self.spend("stream", started)

    def branch(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count what a branch adds to the stream."""
        started = time.perf_counter()
        try:
            if self._passes[stack].first_time(site, index) and self._is_wanted(stack, index):
                self._count(self._rows[stack, site] + index, x, self._mask(stack, x))
                self._half |= x.dtype == torch.float16
        except Exception as error:
            self.guard.note(f"{stack}/{site}[{index}]", error)
        self.spend(site, started)

    def row(self, stack: str, site: str, index: int) -> Tensor:
        """The row of a place as a tensor (1,), for compiled code that counts it."""
        row = self._rows[stack, site] + index
        return torch.arange(row, row + 1, device=self.accumulator.device)

    def trace_branch(self, stack: str, row: Tensor, x: Tensor) -> None:
        """Have what a branch adds counted inside a compiled graph; `row` as `row` gives it."""
        self._count(row, x, self._mask(stack, x))

    def logits(self, sample: Callable[[], Sampled | None]) -> None:
        """Note the logits of the first attention call of the running block.

        A call that cannot be read is the first one, too: what follows is other attention.
        """
        if self._running is None or not self.active or not torch.is_grad_enabled():
            return
        started = time.perf_counter()
        stack, index = self._running
        with self.guard.at(f"{stack}/attention_logits[{index}]"):
            first = self._passes[stack].first_time("attention_logits", index)
            call = sample() if first and self._is_wanted(stack, index) else None
            if call is not None:
                self._pending.add(self._rows[stack, "attention_logits"] + index, call)
        self.spend("attention_logits", started)

    def finish_pass(self) -> None:
        """Count what was only noted during a forward pass."""
        started = time.perf_counter()
        with self.guard.at("attention_logits"):
            self._pending.flush()
        self.spend("attention_logits", started)

    def final_logits(self, mark: str, logits: Tensor) -> None:
        """Count log Z of what the head gives, (batch, seq, vocabulary); `mark` is its chunk's."""
        mask = self._mask(mark, logits)
        if torch.compiler.is_compiling():
            self.accumulator.log_z[0].add_(log_z_sums(logits, mask))
            return
        started = time.perf_counter()
        with self.guard.at("log_z"):
            sums = log_z_sums(logits, mask)
            self.accumulator.log_z[0].add_(sums.to(self.accumulator.log_z))
        self.spend("log_z", started)

    def _is_wanted(self, stack: str, index: int) -> bool:
        return self.only is None or index + self.before.get(stack, 0) in self.only

    def _mask(self, stack: str, x: Tensor) -> Tensor | None:
        return fitting(self.masks.get(self._lasts.get(stack, stack)), x)

    def _count(self, row: int | Tensor, x: Tensor, mask: Tensor | None) -> None:
        part = local_part(x)
        if part is not x:  # the other processes count theirs
            if part is not None:
                self._count(row, part, fitting(mask, part))
            return
        taken = self._again(x, mask)
        if taken is None:
            taken = self._taken(x, mask)
        self.accumulator.add(row, taken.sums)
        if taken.tails is not None:
            self.accumulator.add_tails(row, *taken.tails)
        if taken.gram is not None:
            self.accumulator.note_gram(row, taken.gram)

    def _taken(self, x: Tensor, mask: Tensor | None) -> _Taken:
        sums = moment_row(x, mask)
        tails = tail_sums(x, mask, sums, self._tails) if self._tails else None
        gram = token_gram(x, mask, self.accumulator.wide) if self._grams else None
        taken = _Taken(sums, tails, gram)
        if self._repeats and not torch.compiler.is_compiling():
            self._newest = ref(x), x._version, mask, taken
        return taken

    def _again(self, x: Tensor, mask: Tensor | None) -> _Taken | None:
        """What was taken of this very tensor just before: a norm's input is often the stream."""
        if torch.compiler.is_compiling() or self._newest is None:
            return None
        of, version, with_mask, taken = self._newest
        same = of() is x and x._version == version and with_mask is mask
        return taken if same else None

    def give_up_quantities(self) -> None:
        """Take no sums beyond the moments from now on."""
        self._tails, self._grams = frozenset(), False

    def _count_stream(self, stack: str, index: int, x: Tensor) -> None:
        mask = self._mask(stack, x)
        if self._is_wanted(stack, index):
            self._count(self._rows[stack, "stream"] + index, x, mask)
        self._half |= x.dtype == torch.float16
        if index == 0:
            self._tell(self.on_input, stack, x, mask)
        if x.requires_grad:
            # The stack goes by its first block: until then it may get another name.
            tell = partial(self._gradient, self._firsts[stack], index, mask)
            self._hooks.listen(stack, index, x, tell)

    def _tell(self, listener: Listener, stack: str, x: Tensor, mask: Tensor | None) -> None:
        part = local_part(x.detach())
        if part is not None:
            listener(stack, part, mask if part.shape == x.shape else None)

    def _gradient(self, first: str, index: int, mask: Tensor | None, g: Tensor) -> None:
        started = time.perf_counter()
        stack = self._stacks.get(first, "")
        try:
            if self._is_wanted(stack, index):
                self._count(self._rows[stack, "stream_gradient"] + index, g, mask)
            self._follow_backward()
            if index == self._tops[stack]:
                self._tell(self.on_top_gradient, stack, g, mask)
        except Exception as error:
            self.guard.note(f"{stack}/stream_gradient[{index}]", error)
        self.spend("stream_gradient", started)

    def _follow_backward(self) -> None:
        running = torch._C._current_graph_task_id()
        if running != self._backward:
            self._backward = running
            self.on_backward(self._half)
            # Called back twice: data-parallel wrappers finish their gradients in a callback, too.
            _engine.queue_callback(lambda: _engine.queue_callback(self.on_backward_end))

    def _trace_stream(self, stack: str, index: int, x: Tensor) -> None:
        # Inside a compiled graph there is no clock, no guard and no listener, only the sums.
        self.compiled = True
        mask = self._mask(stack, x)
        self._count(self._rows[stack, "stream"] + index, x, mask)
        if x.requires_grad:
            row = self._rows[stack, "stream_gradient"] + index
            on_gradient(x, lambda g: self._count(row, g, mask))


_engine: Any = torch.autograd.Variable._execution_engine


def local_part(x: Any) -> Tensor | None:
    """This process' part of a tensor that lies over several (a DTensor), else the tensor.

    None where processes have yet to add up what each of them holds of every value.
    """
    if not hasattr(x, "to_local"):
        whole: Tensor = x
        return whole
    return None if is_partial(x) else local(x)


def in_backward() -> bool:
    """Whether this thread runs inside a backward pass, as a checkpoint's recomputation does."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1
