"""The matrices of a mixture's experts: in stacks of three dimensions, or one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import get_args

import torch
from torch import Tensor, nn

from dslm.spec import Activation
from trainer_agent.description.read.feed_forward import FUNCTIONS
from trainer_agent.description.read.linears import LinearCall
from trainer_agent.description.read.parts import FeedForwardParts, LinearPart
from trainer_agent.description.trace.graph import Run
from trainer_agent.description.trace.tracer import Node

OFFSETS = (0.0, 1.0)  # what is added to the ungated half
COMMON: tuple[Activation, ...] = ("silu", "gelu", "relu")
NUMBERED = re.compile(r"(.+)\.(\d+)\.([^.]+(?:\.[^.]+)*)")


@dataclass(frozen=True, slots=True)
class ExpertMatrix:
    """One map of every expert: a stack (experts, ·, ·), or as many matrices."""

    part: LinearPart
    values: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def apply(self, expert: int, x: Tensor) -> Tensor:
        """What one expert makes of (features,)."""
        matrix = self.values[expert].float()
        y = x.float() @ (matrix if self.part.input_first else matrix.T)
        return y + self.biases[expert].float() if self.biases else y


@dataclass(frozen=True, slots=True)
class ExpertMaps:
    """Matrices in the roles that they may have; a fused `up` holds gate and up in one."""

    up: ExpertMatrix
    down: ExpertMatrix
    gate: ExpertMatrix | None
    fused: bool

    def outputs(self, x: Tensor, chosen: Tensor) -> Iterator[tuple[Tensor, FeedForwardParts]]:
        """For each way in which they may be put together, (tokens, top_k, d) and the parts."""
        pairs = [(token, int(expert)) for token, row in enumerate(chosen) for expert in row]
        raised = torch.stack([self.up.apply(expert, x[token]) for token, expert in pairs])
        gates = None
        if self.gate is not None:
            gates = torch.stack([self.gate.apply(expert, x[token]) for token, expert in pairs])
        for gate, up, parts in self._halves(raised, gates):
            names = (*COMMON, *(n for n in get_args(Activation) if n not in COMMON))
            for offset in OFFSETS if gate is not None else (0.0,):
                for name in names:
                    hidden = FUNCTIONS[name](up if gate is None else gate)
                    hidden = hidden if gate is None else hidden * (up + offset)
                    rows = [
                        self.down.apply(expert, hidden[row])
                        for row, (_, expert) in enumerate(pairs)
                    ]
                    result = torch.stack(rows).reshape(*chosen.shape, -1)
                    yield result, replace(parts, activation=name, up_offset=offset)

    def _halves(
        self, raised: Tensor, gates: Tensor | None
    ) -> Iterator[tuple[Tensor | None, Tensor, FeedForwardParts]]:
        if not self.fused:
            gate = None if self.gate is None else self.gate.part
            parts = FeedForwardParts(self.up.part, self.down.part, gate, "silu", 0.0)
            yield gates, raised, parts
            return
        half = raised.shape[-1] // 2
        halves = raised[:, :half], raised[:, half:]
        runs: tuple[tuple[Run, ...], ...] = (((0, half),), ((half, 2 * half),))
        for first, second in ((0, 1), (1, 0)):
            yield halves[first], halves[second], self._parts(runs[first], runs[second], half)
        # Every other feature: both halves have the moments of the whole.
        whole: tuple[Run, ...] = ((0, 2 * half),)
        halves = raised[:, ::2], raised[:, 1::2]
        for first, second in ((0, 1), (1, 0)):
            yield halves[first], halves[second], self._parts(whole, whole, half)

    def _parts(self, gate: tuple[Run, ...], up: tuple[Run, ...], half: int) -> FeedForwardParts:
        both = [replace(self.up.part, outputs=runs, d_out=half) for runs in (gate, up)]
        return FeedForwardParts(both[1], self.down.part, both[0], "silu", 0.0)


def maps_of(routed: Node, router: LinearCall, model: nn.Module) -> Iterator[ExpertMaps]:
    """The ways to give roles to the matrices of the experts near the router."""
    width, n_experts = int(routed.value.shape[-1]), router.d_out
    for matrices in _families(router.weight.where, n_experts, model):
        if len(matrices) not in {2, 3}:
            continue
        for order in permutations(matrices):
            for ups in _oriented(order[:-1], width):
                for down in _turns(order[-1]):
                    if down.part.d_out == width:
                        yield from _roles(ups, down)


def _roles(ups: Sequence[ExpertMatrix], down: ExpertMatrix) -> Iterator[ExpertMaps]:
    hidden = down.part.d_in
    sizes = [up.part.d_out for up in ups]
    if sizes == [2 * hidden]:
        yield ExpertMaps(ups[0], down, None, fused=True)
    elif sizes == [hidden]:
        yield ExpertMaps(ups[0], down, None, fused=False)
    elif sizes == [hidden, hidden]:
        yield ExpertMaps(ups[1], down, ups[0], fused=False)


def _oriented(ups: Sequence[ExpertMatrix], width: int) -> Iterator[tuple[ExpertMatrix, ...]]:
    turned = [[t for t in _turns(up) if t.part.d_in == width] for up in ups]
    if all(turned):
        yield tuple(options[0] for options in turned)
        if all(len(options) == 2 for options in turned):  # square: either way fits
            yield tuple(options[1] for options in turned)


def _turns(matrix: ExpertMatrix) -> Iterator[ExpertMatrix]:
    """The matrix stored (d_out, d_in), and stored (d_in, d_out)."""
    part = matrix.part
    for input_first in (False, True):
        d_out, d_in = (part.d_in, part.d_out) if input_first else (part.d_out, part.d_in)
        if all(bias.shape[-1] == d_out for bias in matrix.biases):
            turned = replace(
                part, d_in=d_in, d_out=d_out, outputs=((0, d_out),), input_first=input_first
            )
            yield replace(matrix, part=turned)


def _families(router: str, n_experts: int, model: nn.Module) -> Iterator[tuple[ExpertMatrix, ...]]:
    """Experts' matrices, from the module around the router outwards."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    prefix = router
    while "." in prefix:
        prefix = prefix.rpartition(".")[0]
        inside = {n: p for n, p in parameters.items() if n.startswith(f"{prefix}.")}
        stacks = [
            _stacked(name, p.detach(), inside)
            for name, p in inside.items()
            if p.ndim == 3 and p.shape[0] == n_experts
        ]
        listed = list(_listed(inside, n_experts))
        if stacks or listed:
            yield tuple(stacks or listed)
            return


def _stacked(name: str, values: Tensor, inside: dict[str, nn.Parameter]) -> ExpertMatrix:
    bias = next((n for n in (f"{name}_bias", f"{name}.bias") if n in inside), None)
    biases = () if bias is None else tuple(inside[bias].detach())
    _, d_out, d_in = values.shape
    part = LinearPart(name, bias, d_in, d_out, ((0, d_out),), stacked=True)
    return ExpertMatrix(part, tuple(values), biases)


def _listed(inside: dict[str, nn.Parameter], n_experts: int) -> Iterator[ExpertMatrix]:
    """Matrices whose names differ in one number, as many as there are experts."""
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for name, parameter in inside.items():
        match = NUMBERED.fullmatch(name)
        if match and parameter.ndim == 2:
            rows.setdefault((match[1], match[3]), {})[int(match[2])] = name
    for row in rows.values():
        names = [row[i] for i in sorted(row)]
        if len(names) != n_experts or len({inside[n].shape for n in names}) != 1:
            continue
        biases = [re.sub(r"weight$", "bias", name) for name in names]
        with_bias = all(b in inside and b != n for b, n in zip(biases, names, strict=True))
        named = [(n, b if with_bias else None) for n, b in zip(names, biases, strict=True)]
        d_out, d_in = inside[names[0]].shape
        part = LinearPart(*named[0], d_in, d_out, ((0, d_out),), others=tuple(named[1:]))
        values = tuple(inside[n].detach() for n in names)
        shifts = tuple(inside[b].detach() for b in biases) if with_bias else ()
        yield ExpertMatrix(part, values, shifts)
