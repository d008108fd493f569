"""Curves of a model whose blocks are repeated, at several depths that share their lowest layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from dslm.curves import backward_moments, forward_moments
from dslm.kernels.block import Layer
from dslm.model import memory_predicted, model_backward, model_forward, model_heads
from dslm.spec import Floats, ModelSpec

Curves = dict[str, "DeepCurves"]


@dataclass(frozen=True, slots=True)
class DeepCurves:
    """What a sweep over depths reads of one stack, each float64[N+1].

    Attributes:
        variance, correlation: of the stream.
        gradient: variance of the gradient, relative to the top.
    """

    variance: Floats
    correlation: Floats
    gradient: Floats


class DeepModel:
    """A model that is predicted at several depths.

    A layer's input does not depend on how many layers follow. So the layers of a stack that reads
    no other are computed once, for the deepest model asked for.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._layers: dict[str, list[Layer]] = {}
        self._curves: dict[Fraction, Curves] = {}

    def curves(self, times: Fraction) -> Curves:
        """Return the curves of each stack with `times` as many blocks, repeated in their order."""
        if times not in self._curves:
            with np.errstate(all="ignore"):  # numbers that overflow are a curve's end
                self._curves[times] = self._predicted(self._deeper(times))
        return self._curves[times]

    def gradient_at(self, name: str, n_layers: int) -> Floats:
        """Return the gradient's variances in a stack of `n_layers` blocks, float64[n+1]."""
        actual = len(self._spec.stacks[name].blocks)
        return self.curves(Fraction(n_layers, actual))[name].gradient

    def _predicted(self, spec: ModelSpec) -> Curves:
        layers = self._forward(spec)
        gradients, _ = model_backward(spec, layers, model_heads(spec, layers))
        curves = {}
        for name, stack in spec.stacks.items():
            read = memory_predicted(spec, stack, layers)
            variance, correlation = forward_moments(stack, layers[name], memory_predicted=read)
            gradient, _ = backward_moments(stack, gradients[name])
            curves[name] = DeepCurves(variance, correlation, gradient)
        return curves

    def _forward(self, spec: ModelSpec) -> dict[str, list[Layer]]:
        depths = {name: len(stack.blocks) for name, stack in spec.stacks.items()}
        lowest = {name: layers[: depths[name]] for name, layers in self._layers.items()}
        layers = model_forward(spec, lowest)
        for name, stack in spec.stacks.items():
            if stack.reads is None and len(layers[name]) > len(self._layers.get(name, ())):
                self._layers[name] = layers[name]
        return layers

    def _deeper(self, times: Fraction) -> ModelSpec:
        stacks = {}
        for name, stack in self._spec.stacks.items():
            n = len(stack.blocks)
            blocks = tuple(stack.blocks[i % n] for i in range(max(round(n * times), 1)))
            stacks[name] = replace(stack, blocks=blocks)
        return replace(self._spec, stacks=stacks)
