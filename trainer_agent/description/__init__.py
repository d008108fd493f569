"""Describing a model: its architecture, today's weight moments, the kernels of a batch.

Loaded as far as it is used: a job that is watched needs most of it in one step.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_agent.description.read.parts import (
        Architecture,
        AttentionParts,
        BlockParts,
        CrossParts,
        ExpertParts,
        FeedForwardParts,
        LinearPart,
        NormPart,
        StackParts,
    )
    from trainer_agent.description.read.recognition import architecture
    from trainer_agent.description.spec.kernels import KernelSums, kernel
    from trainer_agent.description.spec.model_spec import describe
    from trainer_agent.description.spec.moments import Connection, Weighed, measure, weigh

__all__ = [
    "Architecture",
    "AttentionParts",
    "BlockParts",
    "Connection",
    "CrossParts",
    "ExpertParts",
    "FeedForwardParts",
    "KernelSums",
    "LinearPart",
    "NormPart",
    "StackParts",
    "Weighed",
    "architecture",
    "describe",
    "kernel",
    "measure",
    "weigh",
]

_HOMES = {
    "architecture": "read.recognition",
    "describe": "spec.model_spec",
    **dict.fromkeys(("KernelSums", "kernel"), "spec.kernels"),
    **dict.fromkeys(("Connection", "Weighed", "measure", "weigh"), "spec.moments"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attribute = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'read.parts')}"), name)
    globals()[name] = attribute
    return attribute
