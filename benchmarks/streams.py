"""What the stream of a real model does over depth, measured in one forward and backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Curves(NamedTuple):
    """Moments over depth, each float64[N+1]; index 0 is the input of block 0."""

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]  # relative: the last is 1
    correlation: NDArray[np.float64]


def measured(model: nn.Module, blocks: tuple[str, ...], batch: dict[str, Tensor]) -> Curves:
    """Variance, gradient variance and token correlation of the stream around each block."""
    streams: list[Tensor] = []

    def first(_: nn.Module, args: tuple[Any, ...]) -> None:
        streams.append(args[0])

    def after(_: nn.Module, _args: object, output: Any) -> None:
        streams.append(output if isinstance(output, Tensor) else output[0])

    modules = [model.get_submodule(path) for path in blocks]
    handles = [modules[0].register_forward_pre_hook(first)]
    handles += [m.register_forward_hook(after) for m in modules]
    output = model(**batch)
    for handle in handles:
        handle.remove()
    grads = torch.autograd.grad(output["loss"], streams)
    grad_var = np.array([variance(g) for g in grads])
    return Curves(
        forward=np.array([variance(x) for x in streams]),
        backward=grad_var / grad_var[-1],
        correlation=np.array([correlation(x) for x in streams]),
    )


def variance(x: Tensor) -> float:
    """E[x²] − (E x)² over batch, tokens and features."""
    return float(x.detach().double().var(correction=0))


def correlation(x: Tensor) -> float:
    """(E_{i≠j}[x_i x_j] − (E x)²) / variance, for x (batch, seq, features)."""
    x = x.detach().double()
    seq = x.shape[1]
    pairs = (x.sum(1).square() - x.square().sum(1)).mean() / (seq * (seq - 1))
    return float((pairs - x.mean() ** 2) / x.var(correction=0))
