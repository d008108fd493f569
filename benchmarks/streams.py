"""Moments of a real model's stream over depth, measured in one forward and backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer_agent.description.trace.replay import result_of, stream_of


class Curves(NamedTuple):
    """Moments over depth, each float64[N+1]; index 0 is the input of block 0."""

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]  # relative: the last is 1
    correlation: NDArray[np.float64]


def measured(model: nn.Module, blocks: tuple[str, ...], batch: Mapping[str, Tensor]) -> Curves:
    """Variance, gradient variance and token correlation of the stream around each block."""
    return measured_stacks(model, {"stack": blocks}, batch)["stack"]


def measured_stacks(
    model: nn.Module, stacks: Mapping[str, tuple[str, ...]], batch: Mapping[str, Tensor]
) -> dict[str, Curves]:
    """The curves of `measured` for each stack of blocks, from one pass."""
    streams: dict[str, list[Tensor]] = {name: [] for name in stacks}
    handles = [h for name, b in stacks.items() for h in hooks(model, b, streams[name])]
    output = model(**batch)
    for handle in handles:
        handle.remove()
    places = [x for name in stacks for x in streams[name]]
    grads = iter(torch.autograd.grad(output["loss"], places))
    return {name: _curves(xs, [next(grads) for _ in xs]) for name, xs in streams.items()}


def hooks(model: nn.Module, blocks: tuple[str, ...], into: list[Tensor]) -> list[Any]:
    """Hooks that append the stream around each block to `into`; the caller removes them."""

    def first(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _keep(stream_of(args, kwargs))

    def after(_: nn.Module, _args: object, output: Any) -> None:
        _keep(result_of(output))

    def _keep(stream: Tensor | None) -> None:
        assert stream is not None
        into.append(stream)

    modules = [model.get_submodule(path) for path in blocks]
    handles: list[Any] = [modules[0].register_forward_pre_hook(first, with_kwargs=True)]
    return handles + [m.register_forward_hook(after) for m in modules]


def _curves(streams: list[Tensor], grads: list[Tensor]) -> Curves:
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
