"""The ack watermark of a rank: the highest `seq` below which nothing is outstanding."""

from __future__ import annotations

from collections.abc import Iterable


def advance(watermark: int, *, oldest: int, stored: Iterable[int]) -> int:
    """The watermark after a commit.

    Args:
        watermark: the watermark before the commit.
        oldest: lowest `seq` in the agent's spool; what lies below is durable or was given up.
        stored: every `seq` above the watermark that is in the database, in any order.
    """
    watermark = max(watermark, oldest - 1)
    for seq in sorted(stored):
        if seq > watermark + 1:
            break  # a gap: what lies beyond it is acknowledged once it is filled
        watermark = max(watermark, seq)
    return watermark
