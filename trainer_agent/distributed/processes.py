"""What the agent asks of the processes of its job, be they one or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from trainer_agent.capture.statistics.sums import Sums
from trainer_agent.distributed.payload import SampleHeader
from trainer_agent.distributed.spec_exchange import MakeSpec
from trainer_agent.model.plan import Plan

T = TypeVar("T")
# Scalars of a step by name, each read from its sums.
Readers = Mapping[str, Callable[[Sums], float]]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What the end of a step brings from the other processes.

    Attributes:
        every: the interval agreed on, or None.
        due: commands to apply now, in all processes.
        undelivered: commands that this process published and no process applies.
    """

    every: int | None = None
    due: Sequence[bytes] = ()
    undelivered: Sequence[bytes] = ()


class Processes(Protocol):
    """The processes that are measured as one run.

    Methods belong to the training thread where they say nothing else.
    """

    @property
    def rank(self) -> int:
        """The number of this process."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    @property
    def is_sender(self) -> bool:
        """Whether this process sends the run to the server."""
        ...

    @property
    def synchronized(self) -> bool:
        """Whether this process reduces its samples with others."""
        ...

    @property
    def raises_flags(self) -> bool:
        """Whether all processes of the job raise ``should_stop`` at the same step."""
        ...

    @property
    def command_pending(self) -> bool:
        """Whether a command is to be applied at the end of a step to come."""
        ...

    @property
    def dropped_sites(self) -> tuple[str, ...]:
        """Sites that not all processes can measure, each with the reason."""
        ...

    def complete_rendezvous(self, plan: Plan) -> None:
        """Decide, at the end of the first step, who is measured together; later calls do nothing.

        By then all processes have been through a backward pass together, so none waits.
        """
        ...

    def check(self, plan: Plan) -> None:
        """Raise `LayoutMismatch` where the others already count on another plan."""
        ...

    def announce(self, plan: Plan) -> None:
        """Tell the others the plan of this process; too late, and without effect, once decided."""
        ...

    def global_plan(self, plan: Plan) -> Plan:
        """The plan of the whole model, for this process's plan; called from any thread."""
        ...

    def layers_before(self, plan: Plan) -> Mapping[str, int]:
        """By stack of this process, how many of its layers lie in earlier stages."""
        ...

    def reduce(
        self, header: SampleHeader, take: Callable[[], Sums], readers: Readers
    ) -> tuple[Sums, dict[str, float]]:
        """Sums and scalars of the whole job; in the background thread."""
        ...

    def all_reduce(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over all processes; in the background thread."""
        ...

    def all_ready(self, *, ready: bool) -> bool:
        """Whether every process is ready to gather parameters; the same answer in all.

        Waits for the others, 5 seconds at most.
        """
        ...

    def in_background(self, task: Callable[[], T]) -> Callable[[], T]:
        """Where the processes reduce together, begin `task`; returns how to wait for its result.

        Elsewhere the thread that asks for the result runs the task.
        """
        ...

    def gather_specs(self, sample: int, specs: Mapping[int, MakeSpec | None]) -> MakeSpec | None:
        """The description of all stages of a pipeline, or this process's part in making it.

        Args:
            sample: number of the sample described, the same in all processes.
            specs: by local stage what makes its description; None where there is nothing to make.
        """
        ...

    def broadcast(self, command: bytes) -> bool:
        """Have all processes apply a command at the same step; False where they cannot agree.

        Called on rank 0, always from the same thread.
        """
        ...

    def end_step(self, step: int, *, sampled: bool) -> StepOutcome:
        """What is to be applied at the end of this step."""
        ...

    def leave(self) -> None:
        """Keep the other processes from applying commands that this one would miss."""
        ...

    def detach(self, error: Exception) -> None:
        """Go on apart from the other processes; called from any thread."""
        ...


def in_distributed_job() -> bool:
    """Whether torch knows this process as one of several."""
    initialized = distributed.is_available() and distributed.is_initialized()
    return bool(initialized and distributed.get_world_size() > 1)


def read_scalars(sums: Sums, readers: Readers) -> dict[str, float]:
    """The scalars of one process's step."""
    return {name: read(sums) for name, read in readers.items()}


def only_spec(specs: Mapping[int, MakeSpec | None]) -> Callable[[], Any] | None:
    """The description of a process that is alone; None where it holds several chunks.

    Several chunks of one process have gaps between them, and make no model by themselves.
    """
    return next(iter(specs.values())) if len(specs) == 1 else None
