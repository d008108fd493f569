"""All-reduce among the agents of a job, over a process group that the job does not use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

TIMEOUT_S = 30.0


class Collective:
    """Reduces float64 vectors over gloo, on the host. Belongs to the background thread."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._group: Any = None

    def all_reduce(
        self, values: Any, operation: Any = distributed.ReduceOp.SUM
    ) -> NDArray[np.float64]:
        """Sums, or what `operation` makes of them, over all processes; (numbers,).

        Raises:
            RuntimeError: where a process does not take part in time.
        """
        tensor = torch.tensor(np.asarray(values), dtype=torch.float64)
        options = distributed.AllreduceOptions()
        options.reduceOp = operation
        self._connected().allreduce([tensor], options).wait(timedelta(seconds=TIMEOUT_S))
        return tensor.numpy()

    def _connected(self) -> Any:
        # The constructor waits for every process of the job, so no training thread may call it.
        # And the group is not the job's own: a collective of ours between two of the job's would
        # put them out of order.
        if self._group is None:
            timeout = timedelta(seconds=TIMEOUT_S)
            self._group = distributed.ProcessGroupGloo(self._store, self._rank, self._size, timeout)
        return self._group
