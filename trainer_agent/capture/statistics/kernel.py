"""The fused kernel where a tensor can use it: loaded when first needed, given up if it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

logger = logging.getLogger("evenkeel")
FusedRow = Callable[[Tensor, Tensor | None], Tensor | None]


class Kernel:
    """Calls `fused_moments.fused_row`; None wherever the plain sums are to be taken."""

    def __init__(self, load: Callable[[], FusedRow]) -> None:
        self._load = load
        self._row: FusedRow | None = None
        self._given_up = False

    def row(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """The row of a CUDA tensor, (6,), or None."""
        if self._given_up:
            return None
        try:
            if self._row is None:
                self._row = self._load()
            return self._row(x, mask)
        except Exception as error:  # no Triton, no compiler, a device it does not know
            self._given_up = True
            logger.info("evenkeel sums with plain torch, about five passes a tensor: %r", error)
            return None


def _load() -> FusedRow:
    from trainer_agent.capture.statistics import moments_triton as fused_moments

    def row(x: Tensor, mask: Tensor | None) -> Tensor | None:
        return fused_moments.fused_row(x, mask) if fused_moments.takes(x) else None

    return row


kernel = Kernel(_load)
