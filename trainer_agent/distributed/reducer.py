"""Adds up one sample over the processes of a job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import distributed

from trainer_agent.capture.statistics.finalise import unscaled
from trainer_agent.capture.statistics.sums import ADDITIVE, MAXIMA, Sums
from trainer_agent.distributed.collective import Collective
from trainer_agent.distributed.membership import SyncError
from trainer_agent.distributed.payload import Payload, additive_scalars, flatten, unflatten
from trainer_agent.distributed.replicas import (
    Replicas,
    divided,
    is_sequence_parallel,
    without_pairs,
)


class Reducer:
    """Makes the job's sample of this process's. Belongs to the background thread.

    Counts, sums, squares and products add up, so that the result is that of the whole batch.
    """

    def __init__(self, collective: Collective, size: int, matrix_split: int) -> None:
        self._collective, self._size, self._matrix_split = collective, size, matrix_split

    def reduce(self, payload: Payload, replicas: Replicas) -> Payload:
        """The sample of the whole job.

        Raises:
            SyncError: where processes that must see the same sequences saw different ones.
            RuntimeError: where a process does not take part in time.
        """
        sums = self._contribution(payload.sums, replicas)
        additive = np.concatenate([flatten(sums, ADDITIVE), additive_scalars(payload)])
        totals = self._collective.all_reduce(additive)
        maxima = self._collective.all_reduce(flatten(sums, MAXIMA), distributed.ReduceOp.MAX)
        loss, n_losses, squared_norms = totals[-3:]
        reduced = unflatten(unflatten(sums, ADDITIVE, totals[:-3]), MAXIMA, maxima)
        # Each process differentiates the loss of its own batch; the job's loss is their mean.
        n_batches = replicas.n_batches
        if self._is_sequence_parallel(replicas):
            n_batches //= self._matrix_split
        return replace(
            payload,
            sums=unscaled(payload.header.plan, reduced, n_batches),
            loss=loss / n_losses if n_losses else None,
            gradient_norm=float(np.sqrt(squared_norms * replicas.n_stage_groups / self._size)),
        )

    def _contribution(self, sums: Sums, replicas: Replicas) -> Sums:
        """What this process adds, where others bring the same tokens or other parts of them."""
        if self._is_sequence_parallel(replicas):
            # No process saw the pairs of tokens that lie in two of them.
            return without_pairs(sums)
        if replicas.identical < self._matrix_split:
            raise SyncError("processes that split matrices between them saw different sequences")
        return divided(sums, replicas.identical)

    def _is_sequence_parallel(self, replicas: Replicas) -> bool:
        n_processes = self._size // replicas.n_stage_groups
        return is_sequence_parallel(replicas, n_processes, self._matrix_split)
