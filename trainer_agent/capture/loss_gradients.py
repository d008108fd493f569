"""Which gradients are those of the loss, and what is said of the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer_agent.capture.backward_call import BackwardCall
from trainer_agent.capture.notes import Notes
from trainer_agent.capture.stream_gradients import StreamGradient
from trainer_agent.capture.transforms import is_transformed

TRANSFORMED = (
    "forward passes inside torch.func's transforms (vmap, grad, jvp) or with forward-mode "
    "gradients are not measured"
)
HIGHER_ORDER = (
    "gradients that torch.autograd.grad takes to be differentiated again, or as second "
    "derivatives (gradient penalties, Hessian products), are not counted as the loss's"
)
OF_INPUTS = (
    "gradients that torch.autograd.grad takes for no parameter are not counted as the loss's"
)
BATCHED = "gradients that torch.autograd.grad takes of many outputs at once are not counted"


def is_of_loss(call: BackwardCall, gradient: StreamGradient[Any], g: Tensor, notes: Notes) -> bool:
    """Whether `g`, a part of `gradient`, leads to what the optimizer is to be given.

    Gradients that a loop takes by ``torch.autograd.grad`` for parameters, without making them
    differentiable, are: it is about to put them into ``.grad``.
    """
    gradient.note_pass()
    if is_transformed():
        notes.say("transforms", TRANSFORMED)
    elif torch._C._functorch.is_legacy_batchedtensor(g):
        notes.say("batched gradients", BATCHED)
    elif not call.accumulates and gradient.differentiated:
        notes.say("higher order", HIGHER_ORDER)
    elif not call.reaches_parameters:
        notes.say("gradients of inputs", OF_INPUTS)
    else:
        return True
    return False
