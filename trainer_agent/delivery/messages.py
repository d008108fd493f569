"""What training hands to the sender, and the messages a spool keeps beside its frames."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer_agent.delivery.spool import Spool
from wire import RunDeclaration, RunEnd, SpecRevision

_DECLARATION = "declaration:"
_REVISION = "revision:"
_END = "end"
_SERVER = "server"

Content = tuple[RunDeclaration, NDArray[np.float32]]


@dataclass(slots=True)  # not frozen: the training thread makes it, in a third of the time so
class Sample:
    """One sampled step on its way: `content` waits for the device, in the sender thread."""

    step: int
    time: float
    content: Callable[[], Content]


@dataclass(frozen=True, slots=True)
class Description:
    """The model's description at a step: `spec` packs it, in the sender thread.

    `together` is whether every process of the job has to, each with its part of the weights.
    """

    step: int
    spec: Callable[[], dict[str, Any]]
    together: bool = False


Message = Sample | Description | RunEnd


def keep_declaration(spool: Spool, declaration: RunDeclaration) -> None:
    """Keep a declaration under its layout's hash."""
    spool.note(_DECLARATION + declaration.layout.hash, msgspec.json.encode(declaration))


def declarations(spool: Spool, *, known: Container[str] = ()) -> list[RunDeclaration]:
    """Every declaration kept, one per layout, but those of the layouts whose hash is `known`."""
    return [
        msgspec.json.decode(body, type=RunDeclaration)
        for name, body in spool.notes(_DECLARATION).items()
        if name.removeprefix(_DECLARATION) not in known
    ]


def keep_revision(spool: Spool, revision: SpecRevision) -> None:
    """Keep a description of the model until the server has it."""
    spool.note(f"{_REVISION}{revision.step:012d}", msgspec.json.encode(revision))


def revisions(spool: Spool) -> dict[str, SpecRevision]:
    """Descriptions the server does not have yet, by note name, ascending by step."""
    kept = spool.notes(_REVISION).items()
    return {name: msgspec.json.decode(body, type=SpecRevision) for name, body in kept}


def end_of(error: BaseException | None) -> RunEnd:
    """How a run ends that this error ended, or none."""
    if error is None:
        return RunEnd(status="finished")
    return RunEnd(status="failed", reason=f"{type(error).__name__}: {error}")


def keep_end(spool: Spool, end: RunEnd) -> None:
    """Keep the run's end until the server has it."""
    spool.note(_END, msgspec.json.encode(end))


def kept_end(spool: Spool) -> RunEnd | None:
    """The run's end, where it was said and the server does not have it yet."""
    body = spool.notes(_END).get(_END)
    return msgspec.json.decode(body, type=RunEnd) if body else None


def forget_end(spool: Spool) -> None:
    """The server has the run's end."""
    spool.forget_note(_END)


def keep_origin(spool: Spool, *, server: str, run_id: str, rank: int) -> None:
    """Keep where the frames belong, for whoever finds the spool."""
    spool.note(_SERVER, msgspec.json.encode([server, run_id, rank]))


def origin(spool: Spool) -> tuple[str, str, int] | None:
    """Server, run id and rank of the frames, or None where the spool does not say."""
    body = spool.notes(_SERVER).get(_SERVER)
    return msgspec.json.decode(body, type=tuple[str, str, int]) if body else None
