"""A pipeline described by itself: each process knows its own chunks of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from trainer_agent.capture.hook_manager import Begin, Probe
from trainer_agent.capture.recorder import Listener, Recorder
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_by_structure
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.distributed import Processes, SingleProcess
from trainer_agent.distributed.spec_exchange import MakeSpec
from trainer_agent.model.chunks import Chunk, joined
from trainer_agent.model.plan import Plan, mark_of


class ChunkView:
    """One chunk of what a probe watches, with paths and names as the chunk itself has them.

    Attributes:
        begin: told of the chunk's inputs before every sampled forward pass of it.
        plan: what is measured in the chunk.
    """

    def __init__(self, probe: Probe, plan: Plan, follow: Callable[[ChunkView, Plan], None]) -> None:
        self.begin: Begin = lambda _args, _kwargs: None
        self.plan = plan
        self._probe, self._follow = probe, follow

    def follow(self, plan: Plan) -> None:
        """Measure the places of `plan` in this chunk; raises where others count on other ones."""
        self._follow(self, plan)

    def unseen(self) -> AbstractContextManager[None]:
        """Let forward passes of our own go by uncounted."""
        return self._probe.unseen()


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
        probe: Probe,
        recorder: Recorder,
        processes: Processes,
        hints: Sequence[Hint],
    ) -> None:
        self._processes = processes
        self._samples = 0
        self._chunks, self._probe, self._recorder = chunks, probe, recorder
        self._views: list[ChunkView] = []
        self._each: list[SelfDescription] = []
        self._inputs: dict[str, Listener] = {}
        self._gradients: dict[str, Listener] = {}
        for chunk in chunks:
            view = ChunkView(probe, plan_by_structure(chunk.module, hints), self._follow)
            self._views.append(view)
            # No other process holds this chunk, so none has to be ready for its description.
            describer = SelfDescription(chunk.module, view, recorder, hints, SingleProcess())
            self._each.append(describer)
            # Each has just asked the recorder to be told of everything.
            self._inputs[chunk.mark] = recorder.on_input
            self._gradients[chunk.mark] = recorder.on_top_gradient
        probe.begin = self._begin
        recorder.on_input = lambda *what: _tell(self._inputs, *what)
        recorder.on_top_gradient = lambda *what: _tell(self._gradients, *what)

    def ask(self) -> None:
        """Describe the next sampled step."""
        for one in self._each:
            one.ask()

    def forget(self) -> None:
        """Describe the next sampled step instead of the one now ending."""
        for one in self._each:
            one.forget()

    def ask_from_time_to_time(self, step: int) -> None:
        """Describe `step`, the next to be sampled, where it is time: ever more rarely."""
        for one in self._each:
            one.ask_from_time_to_time(step)

    def take(self) -> MakeSpec | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        self._samples += 1  # the same in all processes, which sample the same steps
        if len(self._each) > 1:
            self._recorder.given = None  # which of the compiled chunks was given this is not known
        specs = {
            chunk.stage: one.take()
            for chunk, one in zip(self._chunks, self._each, strict=True)
            if chunk.stage is not None
        }
        return self._processes.gather_specs(self._samples, specs)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._views[self._chunks.index(self._probe.running)].begin(args, kwargs)

    def _follow(self, view: ChunkView, plan: Plan) -> None:
        plans = [plan if one is view else one.plan for one in self._views]
        whole = joined(zip(self._chunks, plans, strict=True))
        self._processes.check(whole)
        view.plan = plan
        self._probe.follow(whole)
        self._processes.announce(self._probe.plan)


def _tell(listeners: Mapping[str, Listener], stack: str, x: Tensor, mask: Tensor | None) -> None:
    mark = mark_of(stack)
    listeners[mark](stack.removesuffix(mark), x, mask)
