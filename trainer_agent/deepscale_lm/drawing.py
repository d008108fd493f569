"""Drawing parameters anew, slice by slice, and noting what they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from trainer_agent.description import BlockParts, LinearPart, NormPart

from .report import Change


def linears_of(parts: BlockParts) -> dict[str, LinearPart]:
    """The block's dense maps by role."""
    attention, feed_forward = parts.attention, parts.feed_forward
    found = {
        "query": attention.query,
        "key": attention.key,
        "value": attention.value,
        "output": attention.output,
        "up": feed_forward.up,
        "down": feed_forward.down,
    }
    return found | ({"gate": feed_forward.gate} if feed_forward.gate else {})


@torch.no_grad()
def draw_block(model: nn.Module, parts: BlockParts, stds: Mapping[str, float]) -> Iterator[Change]:
    """Draw a block's weights, zero its biases, set its norms to one."""
    for role, part in linears_of(parts).items():
        yield draw(model, role, part, stds[role])
        if part.bias is not None:
            pieces = _pieces(model.get_parameter(part.bias), part, dim=0)
            yield _set(f"{role} bias", part.bias, pieces, 0.0)
    for norm in (parts.attention_norm, parts.feed_forward_norm):
        yield from _plain_norm(model, norm)


def draw(model: nn.Module, role: str, part: LinearPart, std: float) -> Change:
    """Draw one map's weight from a normal distribution."""
    pieces = _pieces(model.get_parameter(part.weight), part, dim=1 if part.input_first else 0)
    old = _rms(pieces)
    for piece in pieces:
        piece.normal_(0.0, std)
    return Change(role, part.weight, old, _rms(pieces))


@torch.no_grad()
def draw_table(model: nn.Module, path: str, std: float) -> Change:
    """Draw an embedding table; a padding row stays zero."""
    table = model.get_submodule(path)
    assert isinstance(table, nn.Embedding)
    old = _rms([table.weight])
    table.weight.normal_(0.0, std)
    if table.padding_idx is not None:
        table.weight[table.padding_idx].zero_()
    return Change("embedding", f"{path}.weight", old, _rms([table.weight]))


@torch.no_grad()
def draw_whole(model: nn.Module, role: str, name: str, std: float) -> Change:
    """Draw a whole parameter."""
    parameter = model.get_parameter(name)
    old = _rms([parameter])
    parameter.normal_(0.0, std)
    return Change(role, name, old, _rms([parameter]))


def _plain_norm(model: nn.Module, norm: NormPart) -> Iterator[Change]:
    for role, name, value in (
        ("norm gain", norm.weight, 1.0 - norm.gain_offset),
        ("norm bias", norm.bias, 0.0),
    ):
        if name is not None:
            yield _set(role, name, [model.get_parameter(name)], value)


def _set(role: str, name: str, pieces: list[Tensor], value: float) -> Change:
    old = _rms(pieces)
    for piece in pieces:
        piece.fill_(value)
    return Change(role, name, old, abs(value))


def _pieces(parameter: Tensor, part: LinearPart, *, dim: int) -> list[Tensor]:
    """Views of the parameter that make up the slice."""
    return [parameter.narrow(dim, start, stop - start) for start, stop in part.outputs]


def _rms(pieces: list[Tensor]) -> float:
    total = sum(float(p.float().square().sum()) for p in pieces)
    return float((total / sum(p.numel() for p in pieces)) ** 0.5)
