"""Trainable parameters that no optimizer holds: whether anything moves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_agent.job.parameter_sample import (
    ParameterSample,
    SampleGroup,
    sample_of,
    square_sums,
)
from trainer_agent.model.reference import refer_to


class UnheldParameters:
    """Compares the parameters that the attached optimizers leave out from sample to sample.

    An optimizer that nobody named may train them: only those count that have a gradient and have
    not moved at all.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = refer_to(model)
        self._n_optimized = -1
        self._parameters: tuple[nn.Parameter, ...] = ()
        self._before: tuple[ParameterSample, list[Tensor]] | None = None

    def standing(
        self,
        optimizers: Iterable[Optimizer],
        row_of: Callable[[Tensor], int],
        device: torch.device,
    ) -> list[tuple[SampleGroup, Tensor]]:
        """Sums of squares, (tensors,), of those that stand where the last sample found them.

        Args:
            optimizers: that are attached.
            row_of: a parameter's row of the sums.
            device: of the sums.
        """
        groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
        self._select([parameter for group in groups for parameter in group])
        if not self._parameters:
            return []
        rows = [row_of(parameter) for parameter in self._parameters]
        sample = self._before[0] if self._before is not None else None
        if sample is None or not sample.still_shows(self._parameters):
            sample, self._before = sample_of(self._parameters, rows, device), None
        values = [group.values() for group in sample.groups]
        before = values if self._before is None else self._before[1]
        first, self._before = self._before is None, (sample, values)
        if first:
            return []
        has_gradient = [parameter.grad is not None for parameter in self._parameters]
        return [
            (group, _standing(group, now, then, has_gradient))
            for group, now, then in zip(sample.groups, values, before, strict=True)
        ]

    def forget(self) -> None:
        """Let go of the parameters."""
        self._parameters, self._before = (), None

    def _select(self, optimized: Sequence[Tensor]) -> None:
        """Find the others, where the number of those that optimizers have is another one."""
        if len(optimized) == self._n_optimized:
            return
        self._n_optimized, self._before = len(optimized), None
        identities = {id(parameter) for parameter in optimized}
        trainable = (p for p in self._model().parameters() if p.requires_grad)
        self._parameters = tuple(p for p in trainable if id(p) not in identities)


def _standing(
    group: SampleGroup, now: Tensor, before: Tensor, has_gradient: Sequence[bool]
) -> Tensor:
    stands = (now == before).all(dim=1)
    trained = group.trained(has_gradient)
    stands = stands if trained is None else stands & trained
    return square_sums(now) * group.scales * stands
