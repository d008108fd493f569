"""Forward passes that torch's pipelining makes on memory it has not filled."""

from __future__ import annotations

import sys

# In torch 2.13 a stage runs so to learn the shapes it puts out, before the first step and whenever
# evaluation and training take turns. What later versions may call it, the first step is left out.
REHEARSAL = "_forward_metadata_inference"
MAX_FRAMES = 32


def in_rehearsal() -> bool:
    """Whether the forward pass that now begins is such a one; called by a hook inside it."""
    frame = sys._getframe(1)
    for _ in range(MAX_FRAMES):
        if frame.f_code.co_name == REHEARSAL:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
