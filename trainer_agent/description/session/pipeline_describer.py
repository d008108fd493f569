"""A pipeline described by itself: each process knows its own chunks of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_manager import HookManager
from trainer_agent.capture.listeners import PassListener
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_by_structure
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.distributed import Processes, SingleProcess
from trainer_agent.distributed.spec_exchange import MakeSpec
from trainer_agent.model.chunks import Chunk, joined
from trainer_agent.model.plan import Plan


class ChunkHooks:
    """The hooks on one chunk, with paths and names as the chunk itself has them."""

    def __init__(
        self,
        hooks: HookManager,
        chunk: Chunk,
        plan: Plan,
        apply: Callable[[Chunk, Plan], None],
    ) -> None:
        self._hooks, self._chunk, self._plan, self._apply = hooks, chunk, plan, apply

    @property
    def plan(self) -> Plan:
        """What is measured in the chunk."""
        return self._plan

    def subscribe(self, listener: PassListener) -> None:
        """Tell a listener of the chunk's sampled steps."""
        self._hooks.subscribe(listener, self._chunk)

    def apply(self, plan: Plan, *, keep: bool = False) -> None:  # noqa: ARG002  always kept
        """Measure the places of `plan` in this chunk; raises where others count on other ones."""
        self._apply(self._chunk, plan)
        self._plan = plan

    def count(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count nothing: a pipeline's first step, in which chunks are read, is left out."""

    def paused(self) -> AbstractContextManager[None]:
        """Let forward passes go by uncounted."""
        return self._hooks.paused()


class StagedDescription:
    """Has each chunk of this process describe itself, and rank 0 make one description of all.

    A forward pass of the agent's own runs one chunk alone: what a schedule sends from process to
    process lies outside of it. All processes are asked at the same step, and each leaves its part
    for rank 0, which waits for it where nobody else does. Where the processes are apart a stage
    is described alone, as it is shown alone.

    Attributes:
        together, adds_up: as those of a `SelfDescription`.
    """

    together, adds_up = True, False

    def __init__(
        self,
        chunks: Sequence[Chunk],
        hooks: HookManager,
        recorder: Recorder,
        *,
        guard: Guard,
        account: OverheadAccount,
        hints: Sequence[Hint],
        processes: Processes,
    ) -> None:
        self._processes = processes
        self._samples = 0
        self._chunks, self._hooks, self._recorder = chunks, hooks, recorder
        self._chunk_hooks = [
            ChunkHooks(hooks, chunk, plan_by_structure(chunk.module, hints), self._apply)
            for chunk in chunks
        ]
        self._describers = [
            SelfDescription(
                chunk.module,
                chunk_hooks,
                recorder,
                guard=guard,
                account=account,
                hints=hints,
                # No other process holds this chunk, so none has to be ready for its description.
                processes=SingleProcess(),
                # The other stages describe the same step.
                completes=False,
            )
            for chunk, chunk_hooks in zip(chunks, self._chunk_hooks, strict=True)
        ]

    def ask(self) -> None:
        """Describe the next sampled step."""
        for describer in self._describers:
            describer.ask()

    def forget(self) -> None:
        """Describe the next sampled step instead of the one now ending."""
        for describer in self._describers:
            describer.forget()

    def remove(self) -> None:
        """Take the hooks of a step away that is being described."""
        for describer in self._describers:
            describer.remove()

    def ask_from_time_to_time(self, step: int, *, in_budget: bool = False) -> None:
        """Describe `step`, the next to be sampled, where it is time: ever more rarely."""
        for describer in self._describers:
            describer.ask_from_time_to_time(step, in_budget=in_budget)

    def take(self) -> MakeSpec | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        self._samples += 1  # the same in all processes, which sample the same steps
        if len(self._describers) > 1:
            self._recorder.take_arguments()  # of which compiled chunk they are is not known
        specs = {
            chunk.stage: describer.take()
            for chunk, describer in zip(self._chunks, self._describers, strict=True)
            if chunk.stage is not None
        }
        return self._processes.gather_specs(self._samples, specs)

    def _apply(self, changed: Chunk, plan: Plan) -> None:
        plans = [
            plan if chunk is changed else chunk_hooks.plan
            for chunk, chunk_hooks in zip(self._chunks, self._chunk_hooks, strict=True)
        ]
        local_plan = joined(zip(self._chunks, plans, strict=True))
        self._processes.check(local_plan)
        self._hooks.apply(local_plan, keep=True)
        self._processes.announce(self._hooks.plan)
