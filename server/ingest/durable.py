"""The durable mark: the highest number below which nothing is outstanding."""

from __future__ import annotations

from collections.abc import Iterable


def advance(mark: int, *, oldest: int, stored: Iterable[int]) -> int:
    """The mark after a commit.

    Args:
        mark: the mark before it.
        oldest: the lowest `seq` the agent still holds; what lies below is durable or given up.
        stored: every `seq` above the mark that is in the database, in any order.
    """
    mark = max(mark, oldest - 1)
    for seq in sorted(stored):
        if seq > mark + 1:
            break
        mark = max(mark, seq)
    return mark
