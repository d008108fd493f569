"""Several processes of one job, measured as one: their sums added up, one of them speaking.

All of it happens in a background thread, over a process group of its own: training never waits
for a collective of the agent, and a process that is missing costs the others' numbers, no time.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.statistics.accumulator import ADDITIVE, MAXIMA, Sums
from trainer_agent.capture.statistics.finalise import unscaled
from trainer_agent.distributed.background import Worker
from trainer_agent.distributed.broadcast import Words
from trainer_agent.distributed.payload import Agreement, Outline, Share, extras, packed, unpacked
from trainer_agent.distributed.pipeline import Stages, dropped
from trainer_agent.distributed.rendezvous import Apart, Roster
from trainer_agent.distributed.replicas import (
    Replicas,
    divided,
    fingerprint,
    replicas,
    split_sequences,
    tensor_parallel,
    without_pairs,
)
from trainer_agent.distributed.store import Board
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import Plan

COLLECTIVE_TIMEOUT_S = 30.0
DECISION_TIMEOUT_S = 5.0
_numbers = itertools.count()
T = TypeVar("T")


def whole(
    ranks: Ranks | None,
    outline: Outline,
    take: Callable[[], Sums],
    readers: Mapping[str, Callable[[Sums], float]],
) -> tuple[Sums, dict[str, float]]:
    """Sums and scalars of the whole job; runs in a background thread."""
    sums = take()
    scalars = {name: read(sums) for name, read in readers.items()}
    if ranks is not None:
        loss = scalars["loss"] if outline.loss_given else None
        seen = fingerprint(outline.plan, sums, ranks.rank)
        sums, plan = ranks.placed(outline.plan, sums), ranks.widened(outline.plan)
        mine = Share(replace(outline, plan=plan), sums, loss, scalars["gradient_norm"], seen)
        share = ranks.combine(mine)
        sums, scalars["gradient_norm"] = share.sums, share.gradient_norm
        scalars["loss"] = float("nan") if share.loss is None else share.loss
    return sums, scalars


def several() -> bool:
    """Whether this is one process of several that torch knows of."""
    here = distributed.is_available() and distributed.is_initialized()
    return bool(here and distributed.get_world_size() > 1)


def join(
    guard: Guard,
    model: nn.Module,
    plan: Plan,
    chunks: Sequence[Chunk],
    stages: int | None,
) -> Ranks | None:
    """Say that this process of a job of several is watched; None where there is one.

    `stages` is how many there are, or None where every process holds all layers.
    """
    if not several():
        return None
    size = distributed.get_world_size()
    with guard.at("ranks"):
        store = distributed.distributed_c10d._get_default_store()
        # A connection of its own: a wait here must not hold up the job's use of the store.
        store = store.clone() if hasattr(store, "clone") else store
        own = distributed.distributed_c10d.PrefixStore(f"evenkeel/{next(_numbers)}", store)
        ranks = Ranks(own, distributed.get_rank(), size, guard, tensor_parallel(model))
        ranks.roster.enter(plan, chunks, stages)
        return ranks
    return None


def all_able(ranks: Ranks | None, able: bool) -> bool:
    """Whether every process of the job may take a pass that gathers parameters."""
    if ranks is not None:
        return ranks.all_able(able=able)
    return able and not several()


class Ranks:
    """The processes of a job. Methods belong to the training thread where they say nothing else.

    Attributes:
        rank, size: this process, and how many there are.
        together: whether they add up their numbers; if not, rank 0 shows its own.
        board: where they leave things for each other.
        roster: who is watched and what each stage holds, until it is agreed.
        stages: whose layers stand where, once it is agreed; None where all hold all.
        dropped_sites: sites that stages could not agree on, each with the reason.
        listening: whether what is agreed is kept until this process asks for it.
        words: what rank 0 tells all.
    """

    def __init__(self, store: Any, rank: int, size: int, guard: Guard, split: int = 1) -> None:
        self.rank, self.size = rank, size
        self.together = self.listening = True
        self.words = Words(store)
        self._split = split
        self.stages: Stages | None = None
        self.dropped_sites: tuple[str, ...] = ()
        self._widened: tuple[Plan, Plan] | None = None
        self._store, self._guard = store, guard
        self._group: Any = None
        self._agreed: dict[int, Agreement] = {}
        self.board = Board(store)
        self.roster = Roster(store, self.board, size)
        self._worker = Worker("evenkeel-ranks")
        self._heard = threading.Condition()
        self._combined = 0

    def check(self, plan: Plan) -> None:
        """Raise `Misfit` where `plan` is not what the others count on."""
        if self.stages is not None:
            self.stages.check(plan)

    def widened(self, plan: Plan) -> Plan:
        """The plan of the whole model, of which this process may hold a stage."""
        if self.stages is None:
            return plan
        if self._widened is None or self._widened[0] is not plan:
            self._widened = plan, self.stages.widened(plan)
        return self._widened[1]

    def layers_before(self, plan: Plan) -> dict[str, int]:
        """By stack of this process, how many of its layers lie in earlier stages."""
        return {} if self.stages is None else self.stages.layers_before(plan)

    def placed(self, plan: Plan, sums: Sums) -> Sums:
        """Sums of this process's `plan` in the rows of the whole model's."""
        return sums if self.stages is None else self.stages.spread(plan, sums)

    def decide(self, plan: Plan) -> None:
        """At the first step's end, when all have been through a backward pass together.

        It is laid down, for all, whether every process is watched and what its stages hold.
        """
        if self.roster.laid_down:
            return
        try:
            stages = self.roster.lay_down()
            if stages is not None:
                stages.check(plan)
                self.dropped_sites = dropped(stages.outlines, plan.wanted.sites)
            self.stages = stages
        except Exception as error:
            self.part(error)

    def all_able(self, *, able: bool) -> bool:
        """Whether every process has come to this point and is able; the same answer in all.

        Waits for them, 5 seconds at most.
        """
        return self.roster.complete and self.roster.ask_all(able, DECISION_TIMEOUT_S)

    def add_up(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over all processes; one's own where they are apart. In the background thread."""
        if not self.together:
            return values
        try:
            self._meet()
            return self._reduce(values)
        except Exception as error:
            self.part(error)
            return values

    def soon(self, work: Callable[[], T]) -> Callable[[], T]:
        """Do `work` in the thread of what the processes do together; returns how to wait for it."""
        return self._worker.submit(work).result

    def agreed_with(self, sample: int, patience_s: float) -> Agreement | None:
        """What was agreed with sample number `sample`, from 0; None when not to be had in time."""
        with self._heard:
            self._heard.wait_for(lambda: sample in self._agreed or not self.together, patience_s)
            return self._agreed.pop(sample, None)

    def listen_no_more(self, error: Exception) -> None:
        """Keep nothing that is agreed from now on; the numbers are still added up."""
        with self._heard:
            self.listening = False
            self._agreed.clear()
        self._guard.note("ranks", error)

    def part(self, error: Exception) -> None:
        """Add up no numbers any more; called from any thread."""
        with self._heard:
            self.together = False
            self._heard.notify_all()
        self._guard.note("ranks", error)

    def combine(self, share: Share) -> Share:
        """The whole job's share; this process's own where they are apart.

        Waits for the others, in a thread in the background.
        """
        if not self.together:
            return share
        try:
            return self._combine(share)
        except Exception as error:
            self.part(error)
            return share

    def _combine(self, share: Share) -> Share:
        self._meet()
        agreement, alike = self._agree(share)
        self._keep(agreement)
        sums = self._own_part(share.sums, alike)
        flat = self._reduce(np.concatenate([packed(sums, ADDITIVE), extras(share)]))
        largest = self._reduce(packed(sums, MAXIMA), distributed.ReduceOp.MAX)
        loss, losses, squares = flat[-3:]
        whole = unpacked(unpacked(sums, ADDITIVE, flat[:-3]), MAXIMA, largest)
        # Gradients are those of the mean of the losses on different data.
        split = self._sequences_are_split(alike)
        different = alike.different // self._split if split else alike.different
        return replace(
            share,
            sums=unscaled(share.outline.plan, whole, different),
            loss=loss / losses if losses else None,
            gradient_norm=float(np.sqrt(squares * alike.holders / self.size)),
        )

    def _keep(self, agreement: Agreement) -> None:
        """Keep what all have heard until the training thread asks, whatever fails after it."""
        with self._heard:
            if self.listening:
                self._agreed[self._combined] = agreement
            self._combined += 1
            self._heard.notify_all()

    def _meet(self) -> None:
        if self._group is None:
            timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
            self._group = distributed.ProcessGroupGloo(self._store, self.rank, self.size, timeout)

    def _agree(self, share: Share) -> tuple[Agreement, Replicas]:
        """What rank 0 wishes for and has said, and who saw what; raises `Apart`."""
        step, every = share.outline.step, share.outline.every if self.rank == 0 else 0
        of = share.outline.plan
        rows = [(place.stack, place.site, place.n) for place in of.places]
        wanted = of.wanted.sites, of.wanted.quantities, of.heads
        digest = hashlib.blake2b(repr((rows, wanted)).encode(), digest_size=6).digest()
        plan = int.from_bytes(digest, "big")
        seen, stages = np.zeros(self.size), np.zeros(self.size)
        stage = -1 if self.stages is None else self.stages.own[0]
        seen[self.rank], stages[self.rank] = share.seen, stage + 1
        told = np.concatenate([[step, -step, plan, -plan, every, self.words.said], seen, stages])
        head = self._reduce(told, distributed.ReduceOp.MAX)
        if head[0] != -head[1] or head[2] != -head[3]:
            raise Apart(
                "the processes sample different steps, or hold different layers and are not "
                "told apart by watch(pipeline=)"
            )
        seen, stages = np.split(head[6:], 2)
        agreement = Agreement(every=int(head[4]), words=int(head[5]))
        found = replicas(seen[stages == stage + 1].tolist(), share.seen)
        return agreement, replace(found, holders=len(set(stages.tolist())))

    def _own_part(self, sums: Sums, found: Replicas) -> Sums:
        """What this process adds, where others may bring the same tokens or parts of them."""
        if self._sequences_are_split(found):
            return without_pairs(sums)
        if found.alike < self._split:
            raise Apart("processes that split matrices between them saw different sequences")
        return divided(sums, found.alike)

    def _sequences_are_split(self, found: Replicas) -> bool:
        return split_sequences(found, self.size // found.holders, self._split)

    def _reduce(self, values: Any, how: Any = distributed.ReduceOp.SUM) -> NDArray[np.float64]:
        held = torch.tensor(np.asarray(values), dtype=torch.float64)
        options = distributed.AllreduceOptions()
        options.reduceOp = how
        self._group.allreduce([held], options).wait(timedelta(seconds=COLLECTIVE_TIMEOUT_S))
        return held.numpy()
