"""How the running backward pass was called: read off the arguments of torch's own call."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn

# torch's function through which `Tensor.backward`, `torch.autograd.backward` and
# `torch.autograd.grad` all enter the engine. What calls the engine itself is not recognised.
ENTRANCE = "_engine_run_backward"
# torch's schedules ask for the gradients of a stage's inputs first and of its parameters later:
# together they are one backward pass of the loss.
PIPELINING = "torch.distributed.pipelining"
_RETAIN, _INPUTS = 1, 3  # positions behind the outputs


@dataclass(frozen=True, slots=True)
class BackwardCall:
    """What is asked of a backward pass.

    Attributes:
        retains: whether another pass may follow over the same graph.
        accumulates: whether gradients are added to ``.grad``, as ``backward`` does.
        reaches_parameters: whether the gradient of a parameter is among those asked for.
    """

    retains: bool = False
    accumulates: bool = True
    reaches_parameters: bool = True


UNRECOGNISED = BackwardCall()


def running_call(thread: int) -> BackwardCall:
    """The outermost backward call of a thread, by its identity.

    A GPU's gradients are computed in a thread of torch's while the one that called waits.
    """
    if threading.get_ident() == thread:
        frame: FrameType | None = sys._getframe(1)
    else:
        frame = sys._current_frames().get(thread)
    entrance = None
    while frame is not None:
        if frame.f_code.co_name == ENTRANCE:
            entrance = frame  # a reentrant checkpoint's own call lies inside the job's
        if frame.f_globals.get("__name__", "").startswith(PIPELINING):
            return UNRECOGNISED
        frame = frame.f_back
    if entrance is None:
        return UNRECOGNISED
    arguments = entrance.f_locals
    return _read(arguments.get("args", ()), arguments.get("kwargs", {}))


def _read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> BackwardCall:
    if len(args) <= _INPUTS or "accumulate_grad" not in kwargs:
        return UNRECOGNISED
    accumulates = bool(kwargs["accumulate_grad"])
    inputs = args[_INPUTS]
    reaches = accumulates or any(isinstance(x, nn.Parameter) for x in inputs)
    return BackwardCall(bool(args[_RETAIN]), accumulates, reaches)
