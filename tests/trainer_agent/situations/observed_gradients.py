"""Streams and their gradients as hooks of a test's own see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.trainer_agent.small_gpt import LAYERS, SmallGPT


class ObservedStreams:
    """Every tensor of the stream that trains, with what the backward passes chosen brought it.

    Attributes:
        tensors: of each forward pass, by place.
        gradients: their sums over the backward passes that `counts`, by place.
    """

    def __init__(self, model: SmallGPT) -> None:
        self.counts = True
        self.tensors: list[list[Tensor]] = [[] for _ in range(LAYERS + 1)]
        self.gradients: list[list[Tensor | None]] = [[] for _ in range(LAYERS + 1)]
        self._handles = [
            model.blocks[0].register_forward_pre_hook(lambda _, args: self._observe(0, args[0]))
        ]
        for index, block in enumerate(model.blocks):
            self._handles.append(
                block.register_forward_hook(lambda _, __, out, at=index + 1: self._observe(at, out))
            )

    def _observe(self, place: int, x: Tensor) -> None:
        if not (self.counts and torch.is_grad_enabled()):
            return
        number = len(self.tensors[place])
        self.tensors[place].append(x.detach().double())
        self.gradients[place].append(None)

        def add(g: Tensor) -> None:
            if self.counts:
                before = self.gradients[place][number]
                part = g.detach().double()
                self.gradients[place][number] = part if before is None else before + part

        if x.requires_grad:
            x.register_hook(add)

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """Count no pass inside."""
        self.counts = False
        try:
            yield
        finally:
            self.counts = True

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def variances(self) -> np.ndarray:
        """Of the stream, by place."""
        return np.array([float(torch.cat(x).var(correction=0)) for x in self.tensors])

    def gradient_variances(self) -> np.ndarray:
        """Of its gradient, by place."""
        parts = [[g for g in passes if g is not None] for passes in self.gradients]
        return np.array([float(torch.cat(g).var(correction=0)) for g in parts])

    def assert_measured(self, transport: Any, at: int = -1) -> None:
        """Assert that a frame shows these."""
        measured = transport.series("decoder/stream/variance", at=at)
        np.testing.assert_allclose(measured, self.variances(), rtol=1e-5)
        measured = transport.series("decoder/stream_gradient/variance", at=at)
        np.testing.assert_allclose(measured, self.gradient_variances(), rtol=1e-5)


class GivenNorms:
    """The norm of the gradients just before each call of an optimizer's ``step``."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.norms: list[float] = []
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self._note)

    def _note(self, optimizer: Optimizer, *_: Any) -> None:
        self.norms.append(norm_of([p for group in optimizer.param_groups for p in group["params"]]))


def norm_of(parameters: list[nn.Parameter]) -> float:
    """The norm of the gradients there are, summed in float64."""
    gradients = [p.grad.to_dense().double() for p in parameters if p.grad is not None]
    return float(sum(g.square().sum() for g in gradients)) ** 0.5


def weights_of(model: nn.Module) -> list[Tensor]:
    """Copies of the parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_same(bare: list[Tensor], watched: list[Tensor]) -> None:
    """Assert equality to the bit."""
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))


Train = Callable[[SmallGPT, Callable[[], None]], None]
