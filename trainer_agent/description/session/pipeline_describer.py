"""A pipeline described by itself: each process knows its own chunks of the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor

from trainer_agent.capture.hook_manager import Begin, End, Probe
from trainer_agent.capture.recorder import Listener, Recorder
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_by_structure
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.distributed import Ranks, Stages
from trainer_agent.distributed.merge_specs import whole_spec
from trainer_agent.distributed.store import Board
from trainer_agent.model.chunks import Chunk, joined
from trainer_agent.model.plan import Plan, mark_of

# How long rank 0's sender waits for parts that should have come with the same step's sample.
PATIENCE_S = 5.0
Packed = dict[str, Any]
Take = Callable[[], Packed]


class ChunkView:
    """One chunk of what a probe watches, with paths and names as the chunk itself has them.

    Attributes:
        begin: told of the chunk's inputs before every sampled forward pass of it.
        end: told of its output after each of these.
        plan: what is measured in the chunk.
    """

    def __init__(self, probe: Probe, plan: Plan, follow: Callable[[ChunkView, Plan], None]) -> None:
        self.begin: Begin = lambda _args, _kwargs: None
        self.end: End = lambda _output: None
        self.plan = plan
        self._probe, self._follow = probe, follow

    def follow(self, plan: Plan, *, keep: bool = False) -> None:  # noqa: ARG002  always kept
        """Measure the places of `plan` in this chunk; raises where others count on other ones."""
        self._follow(self, plan)

    def count(self, stack: str, site: str, index: int, x: Tensor) -> None:
        """Count nothing: a pipeline's first step, in which chunks are read, is left out."""

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
        together: Ranks | None,
        hints: Sequence[Hint] = (),
    ) -> None:
        self._ranks = together
        self._samples = 0
        self._chunks, self._probe, self._recorder = chunks, probe, recorder
        self._views: list[ChunkView] = []
        self._describers: list[SelfDescription] = []
        self._inputs: dict[str, Listener] = {}
        self._gradients: dict[str, Listener] = {}
        for chunk in chunks:
            view = ChunkView(probe, plan_by_structure(chunk.module, hints), self._follow)
            self._views.append(view)
            self._describers.append(SelfDescription(chunk.module, view, recorder, hints))
            # Each has just asked the recorder to be told of everything.
            self._inputs[chunk.mark] = recorder.on_input
            self._gradients[chunk.mark] = recorder.on_top_gradient
        probe.begin, probe.end = self._begin, self._end
        recorder.on_input = lambda *what: _tell(self._inputs, *what)
        recorder.on_top_gradient = lambda *what: _tell(self._gradients, *what)

    def ask(self) -> None:
        """Describe the next sampled step."""
        for describer in self._describers:
            describer.ask()

    def forget(self) -> None:
        """Describe the next sampled step instead of the one now ending."""
        for describer in self._describers:
            describer.forget()

    def ask_from_time_to_time(self, step: int) -> None:
        """Describe `step`, the next to be sampled, where it is time: ever more rarely."""
        for describer in self._describers:
            describer.ask_from_time_to_time(step)

    def take(self) -> Take | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        self._samples += 1  # the same in all processes, which sample the same steps
        if len(self._describers) > 1:
            self._recorder.given = None  # which of the compiled chunks was given this is not known
        takes = {
            chunk.stage: take
            for chunk, describer in zip(self._chunks, self._describers, strict=True)
            if chunk.stage is not None and (take := describer.take()) is not None
        }
        ranks = self._ranks
        if ranks is None or ranks.stages is None or not ranks.together:
            return next(iter(takes.values()), None) if len(self._describers) == 1 else None
        if not takes:
            return None
        names = [f"part/{self._samples}/{stage}" for stage in range(len(ranks.stages.blocks))]
        if ranks.rank == 0:
            return partial(_whole, ranks.board, takes, names, ranks.stages)
        return partial(_bring, ranks.board, takes, names)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._views[self._chunks.index(self._probe.running)].begin(args, kwargs)

    def _end(self, output: Any) -> None:
        self._views[self._chunks.index(self._probe.running)].end(output)

    def _follow(self, view: ChunkView, plan: Plan) -> None:
        plans = [plan if other is view else other.plan for other in self._views]
        joined_plan = joined(zip(self._chunks, plans, strict=True))
        if self._ranks is not None:
            self._ranks.check(joined_plan)
        view.plan = plan
        self._probe.follow(joined_plan, keep=True)
        if self._ranks is not None:
            self._ranks.roster.tell(self._probe.plan)


def _bring(board: Board, takes: Mapping[int, Take], names: Sequence[str]) -> Packed:
    """Leave this process's parts for rank 0."""
    for stage, take in takes.items():
        board.pin(names[stage], json.dumps(take()))
    return {}


def _whole(board: Board, takes: Mapping[int, Take], names: Sequence[str], stages: Stages) -> Packed:
    """The description of all stages, in rank 0's sender thread; what does not come is missing."""
    from dslm import spec_from_json, spec_to_json  # pulls in what no other process needs

    others = [name for stage, name in enumerate(names) if stage not in takes]
    texts_by_name = board.wait_for(others, PATIENCE_S)
    board.take_down(names)
    texts = [
        json.dumps(takes[stage]()) if stage in takes else texts_by_name.get(name)
        for stage, name in enumerate(names)
    ]
    parts = [None if text is None else spec_from_json(json.loads(text)) for text in texts]
    return spec_to_json(whole_spec(parts, stages.blocks))


def _tell(listeners: Mapping[str, Listener], stack: str, x: Tensor, mask: Tensor | None) -> None:
    mark = mark_of(stack)
    listeners[mark](stack.removesuffix(mark), x, mask)
