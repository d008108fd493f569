"""Which processes are watched and what each stage holds, decided once for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from trainer_agent.distributed.membership import SyncError
from trainer_agent.distributed.pipeline import PipelineLayout
from trainer_agent.distributed.stage_layout import from_json, stage_layout, to_json
from trainer_agent.distributed.store import TextStore
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import Plan

BARRIER_TIMEOUT_S = 5.0
BARRIER_POLL_S = 0.001


class Rendezvous:
    """Registers this process, announces its stages, and decides with the others.

    Attributes:
        decided: whether the decision has been made.
        complete: whether it says that every process is watched.
    """

    def __init__(self, store: Any, texts: TextStore, size: int) -> None:
        self._store, self._texts, self._size = store, texts, size
        self._chunks: Sequence[Chunk] = ()
        self._n_stages = 0
        self.decided = self.complete = False
        self._barriers = 0

    def register(self, plan: Plan, chunks: Sequence[Chunk], n_stages: int | None) -> None:
        """Announce that this process is watched, and which layers it holds.

        `n_stages` is None where every process holds all layers.
        """
        self._chunks, self._n_stages = chunks if n_stages else (), n_stages or 0
        self.announce(plan)
        self._store.add("watched", 1)

    def announce(self, plan: Plan) -> None:
        """Announce what this process's stages hold, as far as it is known by now.

        Called again in the forward pass of the first step. No process ends that step before all
        have run it, so that the decision at its end finds the announcements of all, and no
        process waits for it.
        """
        for chunk in self._chunks if not self.decided else ():
            text = to_json([stage_layout(plan, chunk.suffix)])
            self._texts.put(_stage_key(chunk.stage), text)

    def decide(self) -> PipelineLayout | None:
        """The stages of all processes, None without a pipeline. Called once.

        The first process to call it writes the decision for all. Later announcements change
        nothing.

        Raises:
            SyncError: where the processes cannot be measured together.
        """
        self.decided = True
        decision = self._store.compare_set("decision", "", self._proposal()).decode()
        verdict, _, detail = decision.partition(": ")
        if verdict != "together":
            raise SyncError(detail)
        local = tuple(chunk.stage for chunk in self._chunks if chunk.stage is not None)
        stages = from_json(detail)
        if len(stages) != self._n_stages:
            raise SyncError("give watch(pipeline=) with the same number of stages in every process")
        self.complete = True
        return PipelineLayout(local, stages) if local else None

    def all_ready(self, ready: bool) -> bool:
        """Whether every process comes to this barrier, and each is ready; the same answer in all.

        Waits for the others, 5 seconds at most. The first process that knows the answer writes
        it for all.
        """
        if not self.complete:
            return False
        self._barriers += 1
        arrived, answer = f"arrived/{self._barriers}", f"answer/{self._barriers}"
        is_last = ready and self._store.add(arrived, 1) == self._size
        if ready and not is_last:
            self._wait_for(answer)
        return bool(self._store.compare_set(answer, "", "go" if is_last else "no") == b"go")

    def _wait_for(self, key: str) -> None:
        # Polled: a wait would hold the connection, which the background thread needs for its
        # rendezvous with processes that may need that to come here.
        deadline = time.monotonic() + BARRIER_TIMEOUT_S
        while not self._store.check([key]) and time.monotonic() < deadline:
            time.sleep(BARRIER_POLL_S)

    def _proposal(self) -> str:
        if self._store.add("watched", 0) != self._size:
            return "apart: call watch in every process of the job, not in some"
        texts = [self._texts.get(_stage_key(number)) for number in range(self._n_stages)]
        stages = [stage for text in texts if text is not None for stage in from_json(text)]
        if len(stages) < len(texts):
            reason = f"of {len(texts)} stages some are watched by no process"
            return f"apart: {reason}: see watch(pipeline=)"
        return f"together: {to_json(stages)}"


def _stage_key(number: int | None) -> str:
    return f"stage/{number}"
