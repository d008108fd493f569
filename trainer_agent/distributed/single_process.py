"""A job of one process, or a process that is measured alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture.statistics.sums import Sums
from trainer_agent.distributed.payload import SampleHeader
from trainer_agent.distributed.processes import (
    Readers,
    StepOutcome,
    in_distributed_job,
    only_spec,
    read_scalars,
)
from trainer_agent.distributed.spec_exchange import MakeSpec
from trainer_agent.model.plan import Plan

T = TypeVar("T")
_NOTHING = StepOutcome()


class SingleProcess:
    """Answers as `Processes` for one process, which waits for nobody."""

    size = 1
    is_sender = True
    synchronized = command_pending = False
    dropped_sites: tuple[str, ...] = ()

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    @property
    def raises_flags(self) -> bool:
        """Whether no other process is left waiting where this one stops.

        A job of several may be watched as single processes: torch was initialized after `watch`,
        or the rendezvous failed.
        """
        return not in_distributed_job()

    def complete_rendezvous(self, plan: Plan) -> None:
        """Nobody else is there."""

    def check(self, plan: Plan) -> None:
        """Nobody else counts on a plan."""

    def announce(self, plan: Plan) -> None:
        """Nobody else is there."""

    def global_plan(self, plan: Plan) -> Plan:
        """The plan itself."""
        return plan

    def layers_before(self, plan: Plan) -> Mapping[str, int]:
        """No layer lies in another process."""
        return {}

    def reduce(
        self,
        header: SampleHeader,
        take: Callable[[], Sums],
        readers: Readers,
    ) -> tuple[Sums, dict[str, float]]:
        """The sums and scalars of this process."""
        sums = take()
        return sums, read_scalars(sums, readers)

    def all_reduce(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values themselves."""
        return values

    def all_ready(self, *, ready: bool) -> bool:
        """Whether this process is ready, and shares its parameters with no other."""
        return ready and not in_distributed_job()

    def in_background(self, task: Callable[[], T]) -> Callable[[], T]:
        """The task itself, for the sender's thread."""
        return task

    def gather_specs(
        self,
        sample: int,
        specs: Mapping[int, MakeSpec | None],
    ) -> MakeSpec | None:
        """The description of the only chunk."""
        return only_spec(specs)

    def broadcast(self, command: bytes) -> bool:
        """False: there is nobody to agree with."""
        return False

    def end_step(self, step: int, *, sampled: bool) -> StepOutcome:
        """Nothing comes from elsewhere."""
        return _NOTHING

    def leave(self) -> None:
        """Nobody is left behind."""

    def detach(self, error: Exception) -> None:
        """Nobody is left behind."""
