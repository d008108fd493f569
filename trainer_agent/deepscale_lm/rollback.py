"""Putting a model back as it was when a change to it fails half way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainer_agent.deepscale_lm.residual_scales import own_scales, set_scales
from trainer_agent.description import Architecture


@contextmanager
def in_training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode for as long as this lasts: that is where dropout counts."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def all_or_nothing(model: nn.Module, architecture: Architecture) -> Iterator[None]:
    """Put parameters, scales, hooks and random state back if anything goes wrong."""
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    block_scales = [own_scales(model, stack) for stack in architecture.stacks]
    scales = [
        {path: (float(lam), float(beta)) for path, (lam, beta) in s.items()} for s in block_scales
    ]
    hooks = {m: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()}
    random = torch.get_rng_state()
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, value in parameters.items():
                model.get_parameter(name).copy_(value)
        for old in scales:
            set_scales(model, old)
        for module, (after, before) in hooks.items():
            _keep_only(module._forward_hooks, after)
            _keep_only(module._forward_pre_hooks, before)
        torch.set_rng_state(random)
        raise


def _keep_only(hooks: dict[int, Any], hooks_before: dict[int, Any]) -> None:
    for key in [k for k in hooks if k not in hooks_before]:
        del hooks[key]
