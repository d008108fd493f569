"""The watched model described by itself, from a step it takes anyway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from dslm.spec import Kernel, Missing
from trainer_agent import description
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_manager import PassListener
from trainer_agent.capture.hooks import first_stream
from trainer_agent.capture.overhead_account import ONCE, OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_of
from trainer_agent.description.session.collected import Given, Notes, packed_spec
from trainer_agent.description.trace.replay import eager
from trainer_agent.description.trace.unsharded import holds_shards, is_flat, would_fit
from trainer_agent.distributed import Processes
from trainer_agent.model.plan import Plan

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, Weighed

FIRST_AGAIN = 50
TIMES_LATER = 4
WITHOUT_DROPOUT = (
    "the input kernel is that of the batch that the architecture was found on, without dropout or "
    "padding mask, and gradients at the top are taken as independent between tokens"
)
GATHERED = (
    "the parameters are sharded: the weights are those after the step described, and what "
    "attention and feed-forward add is measured from the next sample on"
)
SPLIT = (
    "sequences lie over several processes: the input kernel is that of the first step's batch "
    "without dropout or padding mask, and gradients at the top are taken as independent between "
    "tokens"
)
COMPILED_WHOLE = "the model is compiled as a whole: the weights are those after the step described"
UNPREPARED = "what attention and feed-forward add is not measured: for that watch needs batch="
FLAT = Missing(
    "model",
    "flat parameters",
    "FSDP's first version hides the matrices of a block in one vector: use fully_shard",
)
APART = Missing(
    "model",
    "sharded parameters",
    "finding the architecture gathers them, and not every process of the job was ready for that",
)


class Watched(Protocol):
    """What sets the hooks on the model: a hook manager, or its view of one chunk."""

    @property
    def plan(self) -> Plan:
        """The places measured."""
        ...

    def subscribe(self, listener: PassListener) -> None:
        """Tell a listener of the model's sampled steps."""

    def apply(self, plan: Plan) -> None:
        """Measure the places of `plan` from now on."""

    def paused(self) -> AbstractContextManager[None]:
        """Let forward passes go by uncounted."""
        ...


class SelfDescription:
    """Listens to the hooks and makes a `ModelSpec` of the steps it is asked to describe.

    The architecture is found once, in the first sampled forward pass, and the plan follows it.
    Weight moments are read before the step's forward, so before its update.

    Of sharded parameters every process of the job holds a part, so that all describe the same
    steps. The pass that finds the architecture gathers them, which nobody may miss: it runs at
    the end of the first step, where all have said that they are there.

    Attributes:
        together: whether the processes of a job describe the model together.
        adds_up: whether that is a sum over them, as the samples are.
    """

    adds_up = True

    def __init__(
        self,
        model: nn.Module,
        hooks: Watched,
        recorder: Recorder,
        *,
        guard: Guard,
        account: OverheadAccount,
        hints: Sequence[Hint],
        processes: Processes,
    ) -> None:
        self._hints = hints
        self._model, self._hooks, self._recorder = model, hooks, recorder
        self._guard, self._account = guard, account
        self._processes = processes
        self._known: Architecture | None = None
        self._failure: Missing | None = None
        self._wanted = True
        self._again_at = FIRST_AGAIN
        self._notes: Notes | None = None
        self._undropped: dict[str, tuple[Kernel, torch.Size]] = {}
        self._given: Given | None = None
        self._split = False
        self._fresh: Weighed | None = None
        self.together = False
        hooks.subscribe(self)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find the architecture before the first step, where one process can by itself.

        What is compiled afterwards then holds all hooks. Raises what the model raises on these
        arguments.
        """
        if is_flat(self._model) or holds_shards(self._model):
            return
        with self._hooks.paused(), self._first_inputs():
            known = description.architecture(self._model, args, kwargs, hints=self._hints)
        if known.stacks:
            self._take_plan(known)
            self._known, self._fresh = known, description.weigh(known, eager(self._model))

    def ask(self) -> None:
        """Describe the next sampled step."""
        self._wanted = True

    def forget(self) -> None:
        """Describe the next sampled step instead of the one now ending."""
        self._notes = self._given = None
        self._wanted = True

    def ask_from_time_to_time(self, step: int) -> None:
        """Describe `step`, the next to be sampled, where it is time: ever more rarely."""
        if step >= self._again_at:
            self.ask()
        while step >= self._again_at:
            self._again_at *= TIMES_LATER

    def take(self) -> Callable[[], dict[str, Any]] | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        arguments = self._recorder.take_arguments()
        if self._wanted and arguments is not None:
            self._begin_late(*arguments)
        if self._given is not None:
            self._find_together(self._given)
        notes, self._notes = self._notes, None
        if notes is None:
            return None
        if self._split or not notes.inputs:
            self._fall_back(notes, SPLIT if self._split else WITHOUT_DROPOUT)
        if not notes.inputs and self._failure is None:
            return None
        return lambda: self._spec(notes)

    def _begin_late(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Describe a model that is compiled as a whole, where no forward pass is seen to begin."""
        started = time.perf_counter()
        of_now = self._fresh is None
        self.pass_begins(args, kwargs)
        if self._notes is not None:
            remarks = (COMPILED_WHOLE,) * of_now
            self._notes.remarks = remarks + (UNPREPARED,) * (not self._has_branches)
        self._account.charge(ONCE, started)

    @property
    def _has_branches(self) -> bool:
        return any(any(stack.attention) for stack in self._hooks.plan.stacks)

    def _fall_back(self, notes: Notes, why: str) -> None:
        """Take the inputs of the architecture's pass, where the step's own were not seen whole."""
        for stack in self._hooks.plan.stacks:
            if stack.blocks[0] in self._undropped:
                notes.inputs[stack.name], shape = self._undropped[stack.blocks[0]]
                notes.widths[stack.name] = shape[-1]
                notes.batch_size = max(notes.batch_size, shape[0])
                notes.gradients.pop(stack.name, None)
                notes.remarks = (*notes.remarks, why)

    def pass_begins(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Begin the description, where the step is to be described."""
        if not self._wanted:
            return
        self._wanted = False
        self._notes = Notes()
        if self._known is None and self._failure is None:
            self._look(args, kwargs)
        self._weigh()

    def _look(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find the architecture now, or keep what it takes to find it with the others."""
        if is_flat(self._model):
            self._failure = FLAT
        elif holds_shards(self._model):
            device = self._recorder.accumulator.device
            self.together, self._given = True, Given.now(args, kwargs, device)
        else:
            self._find_architecture(args, kwargs)

    def _find_together(self, given: Given) -> None:
        started = time.perf_counter()
        self._given = None
        blocks = [path for stack in self._hooks.plan.stacks for path in stack.blocks]
        if not self._processes.all_ready(ready=would_fit(self._model, blocks, given.tokens)):
            self._failure = APART
        else:
            with given.autocast():
                self._find_architecture(given.args, given.kwargs)
            self._weigh()
            if self._notes is not None:
                self._split = self._saw_parts_of_sequences(self._notes)
                self._notes.remarks = (*self._notes.remarks, GATHERED)
        self._account.charge(ONCE, started)

    def _saw_parts_of_sequences(self, notes: Notes) -> bool:
        """Whether the step's own blocks were given fewer tokens than those of the pass."""
        firsts = ((stack.name, stack.blocks[0]) for stack in self._hooks.plan.stacks)
        return any(
            notes.inputs[name].cell_sizes.sum() < self._undropped[block][1][1]
            for name, block in firsts
            if name in notes.inputs and block in self._undropped
        )

    def _weigh(self) -> None:
        if self._known is not None and self._notes is not None:
            with self._guard.at("weight moments"):
                fresh, self._fresh = self._fresh, None
                self._notes.weights = fresh or description.weigh(self._known, eager(self._model))

    def _find_architecture(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            with self._hooks.paused(), self._first_inputs():
                known = description.architecture(self._model, args, kwargs, hints=self._hints)
            if not known.stacks:
                self._failure = next(iter(known.missing), None)
                return
            self._take_plan(known)
            self._known = known
        except Exception as error:
            self._guard.note("description", error)
            what = f"{type(error).__name__}: {error}"
            self._failure = Missing("model", what, "its forward pass could not be followed")

    def _take_plan(self, known: Architecture) -> None:
        plan = plan_of(known)
        if not self._recorder.compiled:
            self._hooks.apply(plan)
            return
        # Other hooks would make torch compile again; the streams are watched already.
        held, found = ({s.name: s.blocks for s in p.stacks} for p in (self._hooks.plan, plan))
        if held != found:
            raise LookupError("compiled blocks are not those that the model's forward pass calls")

    @contextmanager
    def _first_inputs(self) -> Iterator[None]:
        """Keep what enters the stacks in that pass: inside compiled blocks nobody listens."""
        kept: dict[str, Tensor] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x = first_stream((*args, *kwargs.values()))
                if x is not None:
                    kept[path] = x.detach()

            return hook

        firsts = [stack.blocks[0] for stack in self._hooks.plan.stacks]
        modules = [(path, self._model.get_submodule(path)) for path in firsts]
        handles = [m.register_forward_pre_hook(keep(p), with_kwargs=True) for p, m in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._undropped = {
            p: (description.kernel(x), x.shape) for p, x in kept.items() if x.ndim == 3
        }

    def stack_input(self, stack: str, x: Tensor, mask: Tensor | None) -> None:
        """Take the input kernel of a stack."""
        notes = self._notes
        if notes is not None and stack not in notes.inputs:
            notes.inputs[stack] = description.kernel(x, mask)
            notes.widths[stack] = x.shape[-1]
            notes.batch_size = max(notes.batch_size, x.shape[0])

    def top_gradient(self, stack: str, g: Tensor, mask: Tensor | None) -> None:
        """Take the kernel of the gradient at the top of a stack."""
        notes = self._notes
        if notes is not None and stack not in notes.gradients:
            notes.gradients[stack] = description.kernel(g, mask)

    def _spec(self, notes: Notes) -> dict[str, Any]:
        """The notes as the server takes them; in a background thread, in all processes alike."""
        if notes.weights is not None and self.together:
            notes.weights = notes.weights.added_up(self._processes.all_reduce)
        n_params = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        failures = () if self._failure is None else (self._failure,)
        return packed_spec(self._hooks.plan, self._known, notes, n_params, failures)
