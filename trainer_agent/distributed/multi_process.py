"""A job of several processes, measured as one run that rank 0 sends.

Everything that waits for other processes happens in a background thread, over a process group of
the agent's own. So training never waits for a collective of the agent, and a process that is
missing costs the numbers of the others and none of their time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import distributed, nn

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.statistics.sums import Sums
from trainer_agent.distributed.agreement import AgreementLog, AgreementSchedule
from trainer_agent.distributed.background import BackgroundWorker
from trainer_agent.distributed.broadcast import CommandBroadcast
from trainer_agent.distributed.collective import Collective
from trainer_agent.distributed.global_plan import GlobalPlan
from trainer_agent.distributed.handshake import handshake
from trainer_agent.distributed.membership import Membership
from trainer_agent.distributed.payload import Payload, SampleHeader
from trainer_agent.distributed.processes import (
    Processes,
    Readers,
    StepOutcome,
    in_distributed_job,
    only_spec,
    read_scalars,
)
from trainer_agent.distributed.reducer import Reducer
from trainer_agent.distributed.rendezvous import Rendezvous
from trainer_agent.distributed.replicas import fingerprint, matrix_split_of
from trainer_agent.distributed.single_process import SingleProcess
from trainer_agent.distributed.spec_exchange import MakeSpec, exchange
from trainer_agent.distributed.store import TextStore
from trainer_agent.model.chunks import Chunk
from trainer_agent.model.plan import Plan
from wire import ABSENT

T = TypeVar("T")
# Tells the agents of one job apart; every process makes them in the same order.
_agent_numbers = itertools.count()


def join(
    guard: Guard,
    model: nn.Module,
    plan: Plan,
    chunks: Sequence[Chunk],
    *,
    n_stages: int | None,
    fixed_interval: bool,
    rank: int,
) -> Processes:
    """The processes of this job, once this one is registered with the others.

    Args:
        n_stages: how many stages a pipeline has, None where every process holds all layers.
        fixed_interval: whether samples are taken at a fixed interval, and not by a budget.
        rank: the number of a process that torch does not know as one of several.
    """
    if in_distributed_job():
        with guard.at("ranks"):
            return _register(guard, model, plan, chunks, n_stages, fixed_interval=fixed_interval)
    return SingleProcess(rank)


def _register(
    guard: Guard,
    model: nn.Module,
    plan: Plan,
    chunks: Sequence[Chunk],
    n_stages: int | None,
    *,
    fixed_interval: bool,
) -> Processes:
    store = distributed.distributed_c10d._get_default_store()
    # A connection of its own, so that a wait here does not hold up the job's use of the store.
    store = store.clone() if hasattr(store, "clone") else store
    processes = MultiProcess(
        distributed.distributed_c10d.PrefixStore(f"evenkeel/{next(_agent_numbers)}", store),
        distributed.get_rank(),
        distributed.get_world_size(),
        guard,
        matrix_split=matrix_split_of(model),
        fixed_interval=fixed_interval,
    )
    processes.rendezvous.register(plan, chunks, n_stages)
    return processes


class MultiProcess:
    """The processes of a job, as one of them sees them; see `Processes` for the methods.

    Attributes:
        rank, size: this process, and how many there are.
        membership: whether it still takes part.
        rendezvous: who else does, and which layers each holds.
        commands: what rank 0 asks of all.
        agreements: what the reduction of each sample has told.
    """

    raises_flags = True

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        guard: Guard,
        *,
        matrix_split: int = 1,
        fixed_interval: bool = False,
    ) -> None:
        self.rank, self.size = rank, size
        self.membership = Membership(guard)
        self.commands = CommandBroadcast(store)
        self.agreements = AgreementLog(self.membership, guard)
        self._texts = TextStore(store)
        self.rendezvous = Rendezvous(store, self._texts, size)
        self._global_plan = GlobalPlan()
        self._collective = Collective(store, rank, size)
        self._reducer = Reducer(self._collective, size, matrix_split)
        self._schedule = AgreementSchedule(
            self.agreements, self.commands, self.membership, fixed_interval=fixed_interval
        )
        self._worker = BackgroundWorker("evenkeel-ranks")

    @property
    def is_sender(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def synchronized(self) -> bool:
        """Whether this process still reduces its samples with the others."""
        return self.membership.active

    @property
    def command_pending(self) -> bool:
        """Whether other processes have scheduled a command for a step to come."""
        return self.commands.pending

    @property
    def dropped_sites(self) -> tuple[str, ...]:
        """Sites that the stages could not agree on, each with the reason."""
        return self._global_plan.dropped_sites

    def complete_rendezvous(self, plan: Plan) -> None:
        """Decide who is watched and what the stages hold; where that fails, detach."""
        if self.rendezvous.decided:
            return
        try:
            self._global_plan.settle(self.rendezvous.decide(), plan)
        except Exception as error:
            self.detach(error)

    def check(self, plan: Plan) -> None:
        """Raise `LayoutMismatch` where the plan is not the one that was decided on."""
        self._global_plan.check(plan)

    def announce(self, plan: Plan) -> None:
        """Tell the others what this process's stages hold, until that is decided."""
        self.rendezvous.announce(plan)

    def global_plan(self, plan: Plan) -> Plan:
        """The plan of the whole model, of which this process may hold a stage."""
        return self._global_plan.of(plan)

    def layers_before(self, plan: Plan) -> Mapping[str, int]:
        """By stack of this process, how many of its layers lie in earlier stages."""
        return self._global_plan.layers_before(plan)

    def reduce(
        self, header: SampleHeader, take: Callable[[], Sums], readers: Readers
    ) -> tuple[Sums, dict[str, float]]:
        """Sums and scalars of the whole job; this process's own once it is detached."""
        sums = take()
        scalars = read_scalars(sums, readers)
        payload = self._reduced(
            Payload(
                header=replace(header, plan=self.global_plan(header.plan)),
                sums=self._global_plan.place(header.plan, sums),
                loss=scalars["loss"] if header.has_loss else None,
                gradient_norm=scalars["gradient_norm"],
                fingerprint=fingerprint(header.plan, sums, self.rank),
            )
        )
        scalars["loss"] = float(ABSENT) if payload.loss is None else payload.loss
        scalars["gradient_norm"] = payload.gradient_norm
        return payload.sums, scalars

    def _reduced(self, payload: Payload) -> Payload:
        if not self.synchronized:
            return payload
        layout = self._global_plan.layout
        try:
            answer = handshake(
                payload,
                self._collective,
                rank=self.rank,
                size=self.size,
                stage=None if layout is None else layout.local_stages[0],
                n_commands=self.commands.published,
            )
            # Before anything else can fail: the other processes have this agreement, and apply
            # its commands.
            self.agreements.append(answer.agreement)
            return self._reducer.reduce(payload, answer.replicas)
        except Exception as error:
            self.detach(error)
            return payload

    def all_reduce(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over all processes; the values themselves once this one is detached."""
        if not self.synchronized:
            return values
        try:
            return self._collective.all_reduce(values)
        except Exception as error:
            self.detach(error)
            return values

    def all_ready(self, *, ready: bool) -> bool:
        """Whether every process has come to this point and is ready."""
        return self.rendezvous.all_ready(ready)

    def in_background(self, task: Callable[[], T]) -> Callable[[], T]:
        """On rank 0 begin the task. On the others the sender's stand-in runs it in its thread."""
        return self._worker.submit(task).result if self.is_sender else task

    def gather_specs(self, sample: int, specs: Mapping[int, MakeSpec | None]) -> MakeSpec | None:
        """The merged description on rank 0; on the others, what leaves theirs for it."""
        layout = self._global_plan.layout
        if layout is None or not self.synchronized:
            return only_spec(specs)
        described = {stage: make for stage, make in specs.items() if make is not None}
        if not described:
            return None
        return exchange(self._texts, layout, sample, described, is_sender=self.is_sender)

    def broadcast(self, command: bytes) -> bool:
        """Publish a command; False once this process is detached, or too late for one."""
        return self.synchronized and self.commands.publish(command)

    def end_step(self, step: int, *, sampled: bool) -> StepOutcome:
        """Take the agreement that is due, and the commands scheduled for this step."""
        agreement = self._schedule.end_step(step, sampled=sampled)
        every = None if agreement is None else agreement.every
        return StepOutcome(every, self.commands.due(step), self.commands.undelivered())

    def leave(self) -> None:
        """Withdraw from commands that no process has scheduled yet."""
        # The process that holds the job's store may have ended before this one.
        with suppress(Exception):
            self.commands.leave()

    def detach(self, error: Exception) -> None:
        """Reduce no further sample with the others."""
        self.membership.detach(error)
