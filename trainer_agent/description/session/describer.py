"""The watched model described by itself, from a step it takes anyway."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from dslm.spec import Missing
from trainer_agent import description
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.listeners import PassListener
from trainer_agent.capture.overhead_account import ONCE, OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.description.flow.probe import FlowProbe, PassesOfJob
from trainer_agent.description.flow.sums import FlowSums
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_of
from trainer_agent.description.read.stacks import NOT_THEMSELVES, completed
from trainer_agent.description.session.batch_inputs import (
    InputKernels,
    input_kernels,
    stack_inputs,
    sums_of,
)
from trainer_agent.description.session.branches import count_branches
from trainer_agent.description.session.collected import Observations, packed_spec
from trainer_agent.description.session.reasons import (
    AFTER_THE_STEP,
    APART,
    COMPILED,
    COMPILED_WHY,
    FLAT,
    NOT_FOLLOWED,
    SHARDED,
    SPLIT,
    WITHOUT_DROPOUT,
)
from trainer_agent.description.trace.limits import (
    compiled_part,
    is_transformed,
    runs_beside_compiled_code,
)
from trainer_agent.description.trace.unsharded import holds_shards, is_flat
from trainer_agent.distributed import Processes
from trainer_agent.model.plan import Plan, rows_kept
from trainer_agent.model.reference import refer_to
from trainer_agent.model.unwrap import unwrap

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, Weighed
    from trainer_agent.description.read.recognition import Recognition
    from trainer_agent.description.read.stacks import BlockReading
    from trainer_agent.description.trace.module_calls import ModuleCall

FIRST_AGAIN = 50
# So many sampled steps at most are read until each block of a model that skips some was called.
ATTEMPTS = 4
TIMES_LATER = 2  # so that a description is at most half as old as the step asked for
# Under a budget descriptions are to take no more of a job's time; one that is due waits, but to so
# many times its step at most. Jobs of several processes do not wait: their clocks differ.
SHARE_OF_TIME, WAITS_TO = 0.01, 4


class Watched(Protocol):
    """What sets the hooks on the model: a hook manager, or its view of one chunk."""

    @property
    def plan(self) -> Plan:
        """The places measured."""
        ...

    def subscribe(self, listener: PassListener) -> None:
        """Tell a listener of the model's sampled steps."""

    def apply(self, plan: Plan, *, keep: bool = False) -> None:
        """Measure the places of `plan` from now on."""

    def paused(self) -> AbstractContextManager[None]:
        """Let forward passes go by uncounted."""
        ...

    def count(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count a tensor that no hook of the plan has seen."""


class SelfDescription:
    """Makes a `ModelSpec` of the steps it is asked to describe, from what the hooks see of them.

    The architecture is read once, off the first sampled forward pass of the job's own, while it
    runs; the plan follows it. Weight moments are read before the step's update.

    Of sharded parameters every process of the job holds a part, so that all describe the same
    steps, and add up what each has. The plan changes in all of them or in none: they agree on it
    at the end of the first step.

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
        completes: bool = True,
    ) -> None:
        """Describe `model`.

        Args:
            model: the user's own, inside wrappers.
            hooks: tells of forward passes, inputs and gradients, and takes the plan.
            recorder: knows the arguments of a compiled forward pass.
            guard: counts what fails.
            account: is charged for what a description costs.
            hints: what the user says of blocks.
            processes: agree on the plan, and add up the moments of sharded weights.
            completes: whether the first description may wait for blocks that a step skips.
        """
        # Loaded with the agent, or the first step would wait for it.
        from trainer_agent.description.read import head_trace, recognition  # noqa: F401
        from trainer_agent.description.spec import labels, moments  # noqa: F401

        self._reference, self._hooks, self._recorder = refer_to(model), hooks, recorder
        self._guard, self._account = guard, account
        self._hints, self._processes = hints, processes
        self._attempts = 0 if completes else ATTEMPTS
        self._architecture: Architecture | None = None
        self._failure: Missing | None = None
        self._is_asked = True
        self._again_at, self._began = FIRST_AGAIN, time.perf_counter()
        self._observations: Observations | None = None
        self._recognition: Recognition | None = None
        self._mask: Tensor | None = None
        self._unagreed: Architecture | None = None
        self._must_agree = False
        self._input_kernels: InputKernels = {}
        self._split_inputs: dict[str, Any] = {}
        self._is_split = self._was_turned = False
        self._fresh_weights: Weighed | None = None
        self._probe = FlowProbe(PassesOfJob(recorder), guard, account)
        self.together = False
        hooks.subscribe(self)

    @property
    def _model(self) -> nn.Module:
        return self._reference()

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Read the architecture off a pass on the user's batch, where one process can by itself.

        What is compiled afterwards then holds all hooks. Raises what the model raises on these
        arguments.
        """
        if is_flat(self._model) or holds_shards(self._model):
            return
        with self._hooks.paused(), stack_inputs(self._model, self._hooks.plan) as inputs:
            architecture = description.architecture(self._model, args, kwargs, hints=self._hints)
        self._input_kernels = input_kernels(inputs, architecture)
        if architecture.stacks:
            self._take_plan(architecture)
            self._fresh_weights = description.weigh(architecture, unwrap(self._model))

    def ask(self) -> None:
        """Describe the next sampled step."""
        self._is_asked = True

    def forget(self) -> None:
        """Describe the next sampled step instead of the one now ending."""
        self._observations, self._must_agree = None, False
        self._close_probe()
        self._is_asked = True

    def remove(self) -> None:
        """Take the hooks of a step away that is being described."""
        self._close_probe()

    def ask_from_time_to_time(self, step: int, *, in_budget: bool = False) -> None:
        """Describe `step`, the next to be sampled, where it is time: ever more rarely.

        With `in_budget` a description waits until those before it are paid back.
        """
        waits = in_budget and step < WAITS_TO * self._again_at and not self._is_affordable()
        if step >= self._again_at and not waits:
            self.ask()
            while step >= self._again_at:
                self._again_at *= TIMES_LATER

    def _is_affordable(self) -> bool:
        """Whether descriptions have cost little so far, for the time that the job has run."""
        elapsed_s = time.perf_counter() - self._began
        return self._processes.size > 1 or self._account.of(ONCE) <= SHARE_OF_TIME * elapsed_s

    def take(self) -> Callable[[], dict[str, Any]] | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        late = self._recorder.take_arguments() is not None and self._is_asked
        if self._observations is None and not (late or self._must_agree or self._was_turned):
            if self._probe.is_open:
                self._close_probe()
            return None
        if late:
            self._begin_late()
        if self._must_agree:
            self._settle_together()
        if self._was_turned or self._waits_for_blocks():
            self._was_turned = False
            self.forget()
        flow = self._close_probe()
        observations, self._observations = self._observations, None
        if observations is None:
            return None
        observations.flow = flow
        if self._is_split or not observations.inputs:
            self._fall_back(observations, SPLIT if self._is_split else WITHOUT_DROPOUT)
        if not observations.inputs and self._failure is None:
            self._ask_for_input()
            return None
        # Counted now: the job may have let its model go by the time the sender packs the spec.
        n_params = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        # A later step may change the plan before the sender packs this one.
        plan, architecture = self._hooks.plan, self._architecture
        return lambda: self._spec(plan, architecture, observations, n_params)

    def pass_begins(self, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Begin the description, where the step is to be described."""
        if not self._is_asked:
            self._probe.next_pass(self._hooks.plan, kwargs)
            return
        self._is_asked = False
        self._observations = Observations()
        if self._architecture is None and self._failure is None:
            self._open(kwargs)
        elif self._may_read_skipped():
            self._open_recognition(kwargs)
        elif self._architecture is not None:
            self._open_probe(kwargs)
        self._weigh()

    def _ask_for_input(self) -> None:
        """Describe the next step instead: this one has shown other layers than were expected."""
        if self._architecture is not None and not self.together and self._attempts < ATTEMPTS:
            self._attempts += 1
            self.ask()

    def _skips_blocks(self) -> bool:
        """Whether there are blocks that no pass has called so far."""
        architecture = self._architecture
        return architecture is not None and any(stack.skipped for stack in architecture.stacks)

    def _may_read_skipped(self) -> bool:
        """Whether those blocks could be read off the pass that now begins."""
        if self.together or self._recorder.compiled or not self._skips_blocks():
            return False
        in_the_way = is_transformed() or runs_beside_compiled_code()
        return not in_the_way and compiled_part(self._model) is None

    def _waits_for_blocks(self) -> bool:
        """Whether another step is to be read before the first description."""
        if self._observations is None or self.together or not self._skips_blocks():
            return False
        self._attempts += 1
        return self._attempts < ATTEMPTS

    def _begin_late(self) -> None:
        """Describe a model that is compiled as a whole, where no forward pass is seen to begin."""
        started = time.perf_counter()
        self._is_asked = False
        self._observations = Observations()
        if self._architecture is None:
            self._failure = self._failure or COMPILED
        elif self._fresh_weights is None:
            self._observations.notes = (AFTER_THE_STEP,)
        self._weigh()
        self._account.charge(ONCE, started)

    def _open(self, kwargs: Mapping[str, Any]) -> None:
        """Read the architecture off the pass that now begins, or say why that cannot be."""
        if is_flat(self._model):
            self._failure = FLAT
        elif is_transformed():
            self.forget()  # there will be others
        elif runs_beside_compiled_code():
            self._failure = COMPILED
        elif (part := compiled_part(self._model)) is not None:
            self._failure = Missing(part, "compiled code", COMPILED_WHY)
        else:
            self._open_recognition(kwargs)

    def _open_recognition(self, kwargs: Mapping[str, Any]) -> None:
        from trainer_agent.description.read.head_trace import padding_of
        from trainer_agent.description.read.recognition import Recognition

        self.together = self._must_agree = holds_shards(self._model)
        self._mask = padding_of(kwargs)
        # Rows that the other processes do not count could not be added up.
        on_block = None if self.together else self._count_block
        recognition = Recognition(self._model, self._hints, on_block=on_block)
        try:
            recognition.open()
        except Exception as error:
            recognition.close()
            self._fail(error)
        else:
            self._recognition = recognition
            if not self.together:
                self._open_probe(kwargs)

    def _count_block(
        self, block: str, reading: BlockReading, calls: Mapping[str, ModuleCall]
    ) -> None:
        count_branches(self._hooks, block, reading, calls)
        self._probe.add(block, reading, calls)

    def _open_probe(self, kwargs: Mapping[str, Any]) -> None:
        """Measure inside the blocks too; of a whole that is compiled they show nothing."""
        started = time.perf_counter()
        with self._guard.at("flow"):
            if not self._recorder.compiled and not runs_beside_compiled_code():
                self._probe.open(self._model, self._hooks.plan, self._architecture, kwargs)
        self._account.charge(ONCE, started)

    def _close_probe(self) -> FlowSums | None:
        with self._guard.at("flow"):
            return self._probe.close()
        return None

    def pass_ends(self, output: Any) -> None:
        """Take what the pass has shown of the architecture."""
        if self._recognition is None:
            return
        started = time.perf_counter()
        recognition, self._recognition = self._recognition, None
        self._account.add(ONCE, recognition.spent_s)
        if output is None and not recognition.is_complete:
            # The pass raised, or was interrupted, which nobody tells of before the next one begins.
            recognition.close()
            self.forget()
            return
        try:
            self._settle(recognition.finish(output, self._mask))
            self._split_inputs = recognition.split_inputs
        except Exception as error:
            self._fail(error)
        self._mask = None
        self._account.charge(ONCE, started)

    def _fail(self, error: Exception) -> None:
        self._guard.note("description", error)
        if self._architecture is None:
            self._failure = NOT_FOLLOWED

    def _settle(self, architecture: Architecture) -> None:
        if not architecture.stacks:
            self._failure = next(iter(architecture.missing), None)
            if self._failure is not None and self._failure.why == NOT_THEMSELVES:
                self._hooks.apply(plan_of(architecture), keep=True)  # no layers without values
        elif self._must_agree:
            self._unagreed = architecture
        else:
            self._take_plan(architecture)
            self._weigh()

    def _settle_together(self) -> None:
        """Take the plan where every process of the job can."""
        started = time.perf_counter()
        architecture, self._unagreed, self._must_agree = self._unagreed, None, False
        if not self._processes.all_ready(ready=architecture is not None) or architecture is None:
            self._failure = self._failure or APART
        else:
            self._take_plan(architecture)
            self._weigh()
            self._gather_inputs()
            self.ask()  # inside the blocks: where their parts are was not known in this step
            if self._observations is not None:
                self._observations.notes = (*self._observations.notes, SHARDED)
        self._split_inputs = {}
        self._account.charge(ONCE, started)

    def _gather_inputs(self) -> None:
        """Take the kernels of inputs whose sequences lie in parts over the processes."""
        for path, parts in self._split_inputs.items():
            x = parts.full_tensor()
            self._input_kernels[path] = sums_of(x), x.shape
            self._is_split = True

    def _take_plan(self, architecture: Architecture) -> None:
        if self._architecture is not None:
            architecture = completed(self._architecture, architecture)
        plan, before = plan_of(architecture), self._hooks.plan
        if not self._recorder.compiled:
            self._hooks.apply(plan, keep=True)
            if self._observations is not None:
                self._observations.rename(rows_kept(before, self._hooks.plan).stacks)
        else:
            # Other hooks would make torch compile again; the streams are watched already.
            blocks, read = ({s.name: s.blocks for s in p.stacks} for p in (before, plan))
            if blocks != read:
                raise LookupError("compiled blocks are not those that the model's pass calls")
        self._architecture = architecture

    def _weigh(self) -> None:
        if self._architecture is not None and self._observations is not None:
            with self._guard.at("weight moments"):
                fresh, self._fresh_weights = self._fresh_weights, None
                self._observations.weights = fresh or description.weigh(
                    self._architecture, unwrap(self._model)
                )

    def _fall_back(self, observations: Observations, why: str) -> None:
        """Take input kernels that were made elsewhere, where the step's own were not to be had."""
        for stack in self._hooks.plan.stacks:
            if stack.blocks[0] in self._input_kernels:
                observations.inputs[stack.name], shape = self._input_kernels[stack.blocks[0]]
                observations.widths[stack.name] = shape[-1]
                observations.batch_size = max(observations.batch_size, shape[0])
                observations.gradients.pop(stack.name, None)
                observations.notes = (*observations.notes, why)

    def stack_input(self, stack: str, x: Tensor, mask: Tensor | None) -> None:
        """Take the input of a stack in one of the step's passes."""
        if self._observations is not None:
            self._observations.add_input(stack, x, mask)

    def top_gradient(self, stack: str, g: Tensor, mask: Tensor | None) -> None:
        """Take the gradient at the top of a stack in one of the step's passes."""
        if self._observations is not None:
            self._observations.add_gradient(stack, g, mask)

    def input_was_turned(self) -> None:
        """Leave this step: the next one's input is (batch, seq, features)."""
        self._was_turned = True

    def _spec(
        self,
        plan: Plan,
        architecture: Architecture | None,
        observations: Observations,
        n_params: int,
    ) -> dict[str, Any]:
        """The step as the server takes it; in a background thread, in all processes alike."""
        if observations.weights is not None and self.together:
            observations.weights = observations.weights.added_up(self._processes.all_reduce)
            flow = observations.flow or FlowSums.blank(observations.weights.architecture)
            observations.flow = flow.added_up(self._processes.all_reduce)
        failures = () if self._failure is None else (self._failure,)
        return packed_spec(plan, architecture, observations, n_params, failures)
