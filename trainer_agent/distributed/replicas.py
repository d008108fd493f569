"""Which processes of a job saw the same sequences, and so must count once between them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from trainer_agent.capture.statistics import columns
from trainer_agent.capture.statistics.accumulator import ADDITIVE, Sums
from trainer_agent.model.dtensor import is_split
from trainer_agent.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Replicas:
    """How the data lie over the processes that hold the same layers.

    Attributes:
        alike: processes that saw what this one saw, itself included.
        different: how many saw different data.
        holders: how many processes it takes to hold all layers once.
    """

    alike: int
    different: int
    holders: int = 1


def fingerprint(plan: Plan, sums: Sums, rank: int) -> int:
    """A number that processes share when the same numbers entered their first block.

    The same batch and the same weights give the same bits; where nothing was seen, each process
    counts as different.
    """
    first = next((p.first for p in plan.places if p.site == "stream" and p.n), None)
    row = None if first is None else sums.moments[first]
    if row is None or not row[columns.COUNT]:
        return rank + 1
    digest = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def split_sequences(found: Replicas, processes: int, split: int) -> bool:
    """Whether sequences lie over groups of `split` processes, as sequence parallelism does.

    Processes that split matrices work on the same sequences: where none saw what another did,
    each saw a part of them.
    """
    return split > 1 and found.alike == 1 and found.different == processes


def replicas(found: Sequence[int], own: int) -> Replicas:
    """From the fingerprints of all processes with the same layers, and one's own."""
    counts = Counter(found)
    return Replicas(alike=counts[own], different=len(counts))


def tensor_parallel(model: nn.Module) -> int:
    """How many processes at least split single matrices between them; 1 where none do.

    FSDP splits parameters as well, over one dimension of the mesh: a second one is such a split.
    """
    fully_sharded = any(type(module).__name__.startswith("FSDP") for module in model.modules())
    return max((_split(one, fully_sharded) for one in model.parameters()), default=1)


def _split(parameter: Any, fully_sharded: bool) -> int:
    if not hasattr(parameter, "full_tensor"):
        return 1
    mesh = zip(parameter.device_mesh.shape, parameter.placements, strict=True)
    sizes = [size for size, placement in mesh if is_split(placement)]
    if fully_sharded:
        return sizes[-1] if len(sizes) > 1 else 1  # behind those of the data
    return math.prod(sizes)


def without_pairs(sums: Sums) -> Sums:
    """The sums less those over pairs of tokens, for a process that saw a part of a sequence."""
    kept = sums.moments.copy()
    kept[:, [columns.PAIRS, columns.PAIR_PRODUCTS]] = 0.0
    return replace(sums, moments=kept)


def divided(sums: Sums, by: int) -> Sums:
    """The sums of one of `by` processes that bring the same."""
    if by == 1:
        return sums
    # Not of parameters: where processes split matrices, each brings its own part of them.
    alike = {name: getattr(sums, name) / by for name in ADDITIVE if name != "parameters"}
    return replace(sums, **alike)
