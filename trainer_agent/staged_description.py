"""A pipeline described by itself: each process knows its own chunks of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from trainer_agent.capture.plan import Plan, mark_of
from trainer_agent.capture.probe import Begin, Probe
from trainer_agent.capture.recorder import Listener, Recorder
from trainer_agent.chunks import Chunk, joined
from trainer_agent.hints import Hint
from trainer_agent.self_description import SelfDescription, plan_by_structure


class ChunkView:
    """One chunk of what a probe watches, with paths and names as the chunk itself has them.

    Attributes:
        begin: told of the chunk's inputs before every sampled forward pass of it.
        plan: what is measured in the chunk.
    """

    def __init__(self, probe: Probe, plan: Plan, tell: Callable[[], None]) -> None:
        self.begin: Begin = lambda _args, _kwargs: None
        self.plan = plan
        self._probe, self._tell = probe, tell

    def follow(self, plan: Plan) -> None:
        """Measure the places of `plan` in this chunk from now on."""
        self.plan = plan
        self._tell()

    def unseen(self) -> AbstractContextManager[None]:
        """Let forward passes of our own go by uncounted."""
        return self._probe.unseen()


class StagedDescription:
    """Has each chunk of this process describe itself.

    A forward pass of the agent's own runs one chunk alone: what a schedule sends from process to
    process lies outside of it.
    """

    def __init__(
        self, chunks: Sequence[Chunk], probe: Probe, recorder: Recorder, hints: Sequence[Hint] = ()
    ) -> None:
        self._chunks, self._probe, self._recorder = chunks, probe, recorder
        self._views: list[ChunkView] = []
        self._each: list[SelfDescription] = []
        self._inputs: dict[str, Listener] = {}
        self._gradients: dict[str, Listener] = {}
        for chunk in chunks:
            view = ChunkView(probe, plan_by_structure(chunk.module, hints), self._follow)
            self._views.append(view)
            self._each.append(SelfDescription(chunk.module, view, recorder, hints))
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

    def take(self) -> Callable[[], dict[str, Any]] | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        if len(self._each) > 1:
            self._recorder.given = None  # which of the compiled chunks was given this is not known
        found = [one.take() for one in self._each]
        return found[0] if len(found) == 1 else None

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._views[self._chunks.index(self._probe.running)].begin(args, kwargs)

    def _follow(self) -> None:
        plans = [view.plan for view in self._views]
        self._probe.follow(joined(zip(self._chunks, plans, strict=True)))


def _tell(listeners: Mapping[str, Listener], stack: str, x: Tensor, mask: Tensor | None) -> None:
    mark = mark_of(stack)
    listeners[mark](stack.removesuffix(mark), x, mask)
