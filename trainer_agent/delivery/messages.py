"""What training hands to the sender, and the messages that a spool keeps beside its frames."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer_agent.delivery.spool import Spool
from wire import RunDeclaration, RunEnd, SpecRevision

# Names in the spool, which agents of other versions may read.
_DECLARATION = "declaration:"
_REVISION = "revision:"
_END = "end"
_ORIGIN = "server"
_WRITER = "writer"

Content = tuple[RunDeclaration, NDArray[np.float32]]


@dataclass(slots=True)  # not frozen: the training thread makes it, in a third of the time so
class Sample:
    """One sampled step on its way to the server, or the scalars of several that were not sampled.

    Attributes:
        step: number of the optimizer step, the last one of several.
        time: seconds since the epoch when it ended.
        content: what a frame of it holds; waits for the device, in the sender's thread.
        sampled: whether it is a sampled step.
    """

    step: int
    time: float
    content: Callable[[], Content]
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class Description:
    """The model's description at a step.

    Attributes:
        step: number of the optimizer step.
        spec: makes the `ModelSpec` as JSON, in the sender's thread.
        together: whether every process of the job takes part, with its part of the weights.
    """

    step: int
    spec: Callable[[], dict[str, Any]]
    together: bool = False


Message = Sample | Description | RunEnd


def end_of(error: BaseException | None) -> RunEnd:
    """How a run ends that this error ended, or none."""
    if error is None:
        return RunEnd(status="finished")
    return RunEnd(status="failed", reason=f"{type(error).__name__}: {error}")


def put_declaration(spool: Spool, declaration: RunDeclaration) -> None:
    """Keep a declaration under its layout's hash."""
    spool.put_message(_DECLARATION + declaration.layout.hash, msgspec.json.encode(declaration))


def declarations(spool: Spool, *, skip: Container[str] = ()) -> list[RunDeclaration]:
    """The declarations in the spool, one a layout, less those whose layout's hash is in `skip`."""
    return [
        msgspec.json.decode(body, type=RunDeclaration)
        for name, body in spool.messages(_DECLARATION).items()
        if name.removeprefix(_DECLARATION) not in skip
    ]


def put_revision(spool: Spool, revision: SpecRevision) -> None:
    """Keep a description of the model until the server has it."""
    # Names sort as text, and so do steps of a fixed width.
    spool.put_message(f"{_REVISION}{revision.step:012d}", msgspec.json.encode(revision))


def revisions(spool: Spool) -> dict[str, SpecRevision]:
    """Descriptions that the server does not have yet, by message name, ascending by step."""
    bodies = spool.messages(_REVISION).items()
    return {name: msgspec.json.decode(body, type=SpecRevision) for name, body in bodies}


def put_end(spool: Spool, end: RunEnd) -> None:
    """Keep the run's end until the server has it."""
    spool.put_message(_END, msgspec.json.encode(end))


def end(spool: Spool) -> RunEnd | None:
    """The run's end, where there is one and the server does not have it yet."""
    body = spool.messages(_END).get(_END)
    return msgspec.json.decode(body, type=RunEnd) if body else None


def drop_end(spool: Spool) -> None:
    """Forget the run's end: the server has it, or the run goes on."""
    spool.drop_message(_END)


def put_origin(spool: Spool, *, server: str, run_id: str, rank: int) -> None:
    """Keep where the frames belong, for the agent that adopts the spool."""
    spool.put_message(_ORIGIN, msgspec.json.encode([server, run_id, rank]))


def origin(spool: Spool) -> tuple[str, str, int] | None:
    """Server, run id and rank of the frames, or None where the spool does not tell."""
    body = spool.messages(_ORIGIN).get(_ORIGIN)
    return msgspec.json.decode(body, type=tuple[str, str, int]) if body else None


def put_writer(spool: Spool, writer_id: str) -> None:
    """Keep as whom the frames are sent, for the agent that adopts the spool."""
    spool.put_message(_WRITER, writer_id.encode())


def writer(spool: Spool) -> str | None:
    """As whom the frames were sent, or None where no process has sent any."""
    body = spool.messages(_WRITER).get(_WRITER)
    return body.decode() if body else None
