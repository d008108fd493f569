"""Describing a model: its architecture, today's weight moments, the kernels of a batch."""

from .architecture import architecture
from .describe import describe
from .kernels import kernel
from .moments import Connection, Weighed, measure, weigh
from .parts import (
    Architecture,
    AttentionParts,
    BlockParts,
    CrossParts,
    FeedForwardParts,
    LinearPart,
    NormPart,
    StackParts,
)

__all__ = [
    "Architecture",
    "AttentionParts",
    "BlockParts",
    "Connection",
    "CrossParts",
    "FeedForwardParts",
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
