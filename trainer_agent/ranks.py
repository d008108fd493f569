"""Several processes of one job, measured as one: their sums added up, one of them speaking.

All of it happens in a background thread, over a process group of its own: training never waits
for a collective of the agent, and a process that is missing costs the others' numbers, no time.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from trainer_agent.capture.accumulator import Sums
from trainer_agent.capture.frame_values import unscaled
from trainer_agent.capture.plan import Plan
from trainer_agent.guard import Guard

COLLECTIVE_TIMEOUT_S = 30.0
DECISION_TIMEOUT_S = 5.0
_numbers = itertools.count()


class Apart(RuntimeError):
    """The processes of the job do not measure the same step of the same model."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a sample before the device has finished it.

    Attributes:
        every: the interval this process wishes for, 0 where it is fixed.
        loss_given: whether the job gave a loss.
    """

    step: int
    plan: Plan
    every: int
    loss_given: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What one process brings to a sample; a loss that was not given is None."""

    outline: Outline
    sums: Sums
    loss: float | None
    gradient_norm: float


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
        share = ranks.combine(Share(outline, sums, loss, scalars["gradient_norm"]))
        sums, scalars["gradient_norm"] = share.sums, share.gradient_norm
        scalars["loss"] = float("nan") if share.loss is None else share.loss
    return sums, scalars


def join(guard: Guard) -> Ranks | None:
    """Say that this process of a job of several is watched; None where there is one."""
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    size = distributed.get_world_size()
    if size == 1:
        return None
    with guard.at("ranks"):
        store = distributed.distributed_c10d._get_default_store()
        # A connection of its own: a wait here must not hold up the job's use of the store.
        store = store.clone() if hasattr(store, "clone") else store
        own = distributed.distributed_c10d.PrefixStore(f"evenkeel/{next(_numbers)}", store)
        return Ranks(own, distributed.get_rank(), size, guard)
    return None


class Ranks:
    """The processes of a job. Every method but `combine` belongs to the training thread.

    Attributes:
        rank, size: this process, and how many there are.
        together: whether they add up their numbers; if not, rank 0 shows its own.
    """

    def __init__(self, store: Any, rank: int, size: int, guard: Guard) -> None:
        self.rank, self.size = rank, size
        self.together = True
        self._store, self._guard = store, guard
        self._decided = False
        self._group: Any = None
        self._intervals: dict[int, int] = {}
        self._heard = threading.Condition()
        self._combined = 0
        store.add("watched", 1)

    def decide(self) -> None:
        """At the first step's end, when all have been through a backward pass together.

        Whoever is first lays down, for all, whether every process is watched.
        """
        if self._decided:
            return
        self._decided = True
        try:
            all_here = self._store.add("watched", 0) == self.size
            said = self._store.compare_set("decision", "", "together" if all_here else "apart")
            if said != b"together":
                raise Apart("call watch in every process of the job, not in some")
        except Exception as error:
            self._give_up(error)

    def interval_after(self, sample: int) -> int | None:
        """The interval agreed with sample number `sample`, from 0; None when not to be had."""
        with self._heard:
            known = self._heard.wait_for(
                lambda: sample in self._intervals or not self.together, DECISION_TIMEOUT_S
            )
        if not known:
            self._give_up(TimeoutError("the other processes are too late"))
        return self._intervals.pop(sample, None)

    def combine(self, share: Share) -> Share:
        """The whole job's share; this process's own where they are apart. Waits for the others."""
        if not self.together:
            return share
        try:
            whole, every = self._combine(share)
        except Exception as error:
            self._give_up(error)
            return share
        with self._heard:
            if every:
                self._intervals[self._combined] = every
            self._combined += 1
            self._heard.notify_all()
        return whole

    def _combine(self, share: Share) -> tuple[Share, int]:
        if self._group is None:
            timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
            self._group = distributed.ProcessGroupGloo(self._store, self.rank, self.size, timeout)
        step, every = share.outline.step, share.outline.every if self.rank == 0 else 0
        digest = hashlib.blake2b(repr(share.outline.plan).encode(), digest_size=6).digest()
        plan = int.from_bytes(digest, "big")
        head = self._reduce([step, -step, plan, -plan, every], distributed.ReduceOp.MAX)
        if head[0] != -head[1] or head[2] != -head[3]:
            raise Apart("the processes sample different steps or different models")
        sums = share.sums
        parts = [sums.moments, sums.logits, *map(np.atleast_1d, _extras(share))]
        flat = self._reduce(np.concatenate([part.ravel() for part in parts]))
        moments, logits = np.split(flat[:-3], [sums.moments.size])
        loss, losses, squares = flat[-3:]
        whole = replace(
            sums,
            moments=moments.reshape(sums.moments.shape),
            logits=logits.reshape(sums.logits.shape),
            logit_max=self._reduce(sums.logit_max, distributed.ReduceOp.MAX),
        )
        combined = replace(
            share,
            sums=unscaled(share.outline.plan, whole, self.size),  # of the mean of the ranks' losses
            loss=loss / losses if losses else None,
            gradient_norm=float(np.sqrt(squares / self.size)),
        )
        return combined, int(head[4])

    def _reduce(self, values: Any, how: Any = distributed.ReduceOp.SUM) -> NDArray[np.float64]:
        held = torch.tensor(np.asarray(values), dtype=torch.float64)
        options = distributed.AllreduceOptions()
        options.reduceOp = how
        self._group.allreduce([held], options).wait(timedelta(seconds=COLLECTIVE_TIMEOUT_S))
        return held.numpy()

    def _give_up(self, error: Exception) -> None:
        with self._heard:
            self.together = False
            self._heard.notify_all()
        self._guard.note("ranks", error)


def _extras(share: Share) -> tuple[float, float, float]:
    given = share.loss is not None
    return share.loss or 0.0, float(given), share.gradient_norm**2


class Follower:
    """Stands where the sender does in processes that bring their share and send nothing."""

    dropped = resent = last_seq = 0
    page = ""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._queue: list[Callable[[], Any] | None] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, parcel: Any) -> None:
        """Take a sample; descriptions are rank 0's to send."""
        if hasattr(parcel, "values"):
            self._put(parcel.values)

    def close(self, end: object, *, timeout_s: float) -> bool:  # noqa: ARG002
        """Bring what is left; returns whether that was in time."""
        self._put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def resume(self, run_id: str, last_seq: int) -> bool:  # noqa: ARG002
        """Nothing is numbered here."""
        return True

    def settle(self, timeout_s: float) -> bool:  # noqa: ARG002
        """Nothing is kept here."""
        return True

    def _put(self, work: Callable[[], Any] | None) -> None:
        with self._wake:
            self._queue.append(work)
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evenkeel-ranks", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue)
                work = self._queue.pop(0)
            if work is None:
                return
            with self._guard.at("ranks"):
                work()
