"""Describing a model: its architecture, today's weight moments, the kernels of a batch."""

from .architecture import architecture
from .describe import describe
from .kernels import kernel
from .moments import measure
from .parts import (
    Architecture,
    AttentionParts,
    BlockParts,
    FeedForwardParts,
    LinearPart,
    NormPart,
    StackParts,
)

__all__ = [
    "Architecture",
    "AttentionParts",
    "BlockParts",
    "FeedForwardParts",
    "LinearPart",
    "NormPart",
    "StackParts",
    "architecture",
    "describe",
    "kernel",
    "measure",
]
