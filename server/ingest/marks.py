"""Marks that lie beyond what a rank has sent, and how they are lowered."""

from __future__ import annotations

import msgspec

from server.ingest.repository import FrameRepository
from server.runs.rows import RankRow


async def possible(repository: FrameRepository, rank: RankRow) -> RankRow:
    """The rank, with its marks lowered to its newest frame where one lies beyond.

    A heartbeat whose `oldest` was absurd could set them so, and no later frame was stored. The
    caller holds the run's lock.
    """
    if max(rank.durable, rank.diagnosed, rank.packed, rank.oldest - 1) <= rank.top_seq:
        return rank
    # Older versions did not note the newest frame.
    newest = max(rank.top_seq, await repository.highest_stored(rank.run_id, rank.rank))
    lowered = {
        "durable": min(rank.durable, newest),
        "oldest": min(rank.oldest, newest + 1),
        "diagnosed": min(rank.diagnosed, newest),
        "packed": min(rank.packed, newest),
        "top_seq": newest,
    }
    await repository.change_rank(rank.run_id, rank.rank, **lowered)
    return msgspec.structs.replace(rank, **lowered)
