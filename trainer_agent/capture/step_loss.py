"""The loss of an optimizer step, gathered from its micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class StepLoss:
    """Adds up the losses of micro-batches, on their device."""

    def __init__(self) -> None:
        self._total: Tensor | float | None = None
        self._count = 0

    def add(self, loss: Any) -> None:
        """Add one micro-batch; a loss that is no single number is left out."""
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                return
            loss = loss.detach().float().reshape(())
        elif not isinstance(loss, int | float):
            return
        self._total = loss if self._total is None else self._total + loss
        self._count += 1

    def take_sum(self) -> Tensor | float | None:
        """The sum since the last call, None of nothing; for losses that add up to the step's."""
        total, self._total, self._count = self._total, None, 0
        return total

    def take_mean(self) -> Tensor | float | None:
        """The mean since the last call, None of nothing."""
        count = self._count
        total = self.take_sum()
        return None if total is None else total / count


def returned_loss(output: Any) -> Tensor | None:
    """The loss among what a model's forward returns, None where it returns none.

    It is what a mapping calls ``loss`` (as the outputs of `transformers` do), else the only single
    number that has a gradient: ``(logits, loss)``, or the loss by itself.
    """
    if isinstance(output, Mapping):
        named = output.get("loss")
        items = [named] if named is not None else list(output.values())
    else:
        items = list(output) if isinstance(output, tuple | list) else [output]
    losses = [
        item for item in items if isinstance(item, Tensor) and item.ndim == 0 and item.requires_grad
    ]
    return losses[0] if len(losses) == 1 else None
