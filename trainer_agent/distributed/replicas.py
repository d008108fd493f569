"""Which processes of a job saw the same sequences, so that these count once."""

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
from trainer_agent.capture.statistics.sums import ADDITIVE, Sums
from trainer_agent.model.dtensor import is_split
from trainer_agent.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Replicas:
    """How the data are spread over the processes that hold the same layers.

    Attributes:
        identical: processes that saw what this one saw, itself included.
        n_batches: how many different batches these processes saw.
        n_stage_groups: how many processes it takes to hold all layers once.
    """

    identical: int
    n_batches: int
    n_stage_groups: int = 1


def fingerprint(plan: Plan, sums: Sums, rank: int) -> int:
    """A number that processes share when the same numbers entered their first block.

    The same batch and the same weights give the same bits. A process whose first block saw
    nothing shares its number with none.
    """
    streams = (place.first for place in plan.places if place.site == "stream" and place.n)
    first = next(streams, None)
    row = None if first is None else sums.moments[first]
    if row is None or not row[columns.COUNT]:
        return rank + 1
    # 48 bits, because fingerprints travel as float64.
    digest = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def count_replicas(fingerprints: Sequence[int], local: int) -> Replicas:
    """From the fingerprints of all processes with the same layers, and this process's."""
    counts = Counter(fingerprints)
    return Replicas(identical=counts[local], n_batches=len(counts))


def is_sequence_parallel(replicas: Replicas, n_processes: int, matrix_split: int) -> bool:
    """Whether sequences lie over groups of `matrix_split` processes.

    Processes that split matrices work on the same sequences. So where no two of them saw the
    same, each saw a part of them.
    """
    distinct = replicas.identical == 1 and replicas.n_batches == n_processes
    return matrix_split > 1 and distinct


def matrix_split_of(model: nn.Module) -> int:
    """How many processes, at least, split single matrices between them; 1 where none do.

    FSDP splits parameters as well, over one dimension of the mesh; a second dimension is
    tensor parallelism.
    """
    fully_sharded = any(type(module).__name__.startswith("FSDP") for module in model.modules())
    splits = (_split_of(parameter, fully_sharded) for parameter in model.parameters())
    return max(splits, default=1)


def _split_of(parameter: Any, fully_sharded: bool) -> int:
    if not hasattr(parameter, "full_tensor"):
        return 1
    mesh = zip(parameter.device_mesh.shape, parameter.placements, strict=True)
    sizes = [size for size, placement in mesh if is_split(placement)]
    if fully_sharded:
        return sizes[-1] if len(sizes) > 1 else 1  # meshes list the data dimension first
    return math.prod(sizes)


def without_pairs(sums: Sums) -> Sums:
    """The sums less those over pairs of tokens, for a process that saw a part of a sequence."""
    rows = sums.moments.copy()
    rows[:, [columns.PAIRS, columns.PAIR_PRODUCTS]] = 0.0
    return replace(sums, moments=rows)


def divided(sums: Sums, n: int) -> Sums:
    """The part of one of `n` processes that all bring the same sums."""
    if n == 1:
        return sums
    # Where processes split matrices each brings sums over its own part of the parameters.
    names = (name for name in ADDITIVE if name != "parameters")
    return replace(sums, **{name: getattr(sums, name) / n for name in names})
