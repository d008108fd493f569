"""Which processes are watched and what each stage holds, until it is laid down for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from trainer_agent.distributed.pipeline import Stages, outline, read, write
from trainer_agent.distributed.store import Board
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import Plan


class Apart(RuntimeError):
    """The processes of the job do not measure the same step of the same model."""


class Roster:
    """One process's view of it. `tell` ends with `lay_down`, which comes once.

    Attributes:
        laid_down: whether that has been.
        complete: whether every process is watched, as it was laid down.
    """

    def __init__(self, store: Any, board: Board, size: int) -> None:
        self._store, self._board, self._size = store, board, size
        self._chunks: Sequence[Chunk] = ()
        self._n_stages = 0
        self.laid_down = self.complete = False
        self._asked = 0

    def enter(self, plan: Plan, chunks: Sequence[Chunk], stages: int | None) -> None:
        """Say that this process is watched, and which layers it holds."""
        self._chunks, self._n_stages = chunks if stages else (), stages or 0
        self.tell(plan)
        self._store.add("watched", 1)

    def tell(self, plan: Plan) -> None:
        """Tell the others what this process's stages hold, as far as it is known by now.

        Once in the first step's forward pass: no process ends that step before all have run it,
        so that all have told by then, and nobody waits.
        """
        for chunk in self._chunks if not self.laid_down else ():
            self._board.pin(f"stage/{chunk.stage}", write([outline(plan, chunk.mark)]))

    def lay_down(self) -> Stages | None:
        """What holds for all, None without a pipeline; raises `Apart`.

        Whoever is first lays it down: what others say meanwhile comes too late for everybody.
        """
        self.laid_down = True
        said = self._store.compare_set("decision", "", self._proposal()).decode()
        kind, _, rest = said.partition(": ")
        if kind != "together":
            raise Apart(rest)
        own = tuple(chunk.stage for chunk in self._chunks if chunk.stage is not None)
        held = read(rest)
        if len(held) != self._n_stages:
            raise Apart("give watch(pipeline=) with the same number of stages in every process")
        self.complete = True
        return Stages(own, held) if own else None

    def ask_all(self, able: bool, timeout_s: float) -> bool:
        """Whether all processes ask this, and each is able; the same answer in all of them.

        Waits for the others. Whoever answers first lays the answer down.
        """
        self._asked += 1
        here, said = f"here/{self._asked}", f"said/{self._asked}"
        everybody = able and self._store.add(here, 1) == self._size
        if able and not everybody:
            self._await(said, timeout_s)
        answer = self._store.compare_set(said, "", "go" if everybody else "no")
        return bool(answer == b"go")

    def _await(self, name: str, timeout_s: float) -> None:
        # Asked again and again: a wait would hold the connection, which the background thread
        # needs to meet the others, who may need that to come here.
        until = time.monotonic() + timeout_s
        while not self._store.check([name]) and time.monotonic() < until:
            time.sleep(0.001)

    def _proposal(self) -> str:
        if self._store.add("watched", 0) != self._size:
            return "apart: call watch in every process of the job, not in some"
        texts = [self._board.read(f"stage/{number}") for number in range(self._n_stages)]
        held = [one for text in texts if text is not None for one in read(text)]
        if len(held) < len(texts):
            some = f"of {len(texts)} stages some are watched by no process"
            return f"apart: {some}: see watch(pipeline=)"
        return f"together: {write(held)}"
