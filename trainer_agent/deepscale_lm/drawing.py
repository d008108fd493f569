"""Drawing parameters anew, slice by slice, and noting what they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import dslm
from trainer_agent.deepscale_lm.report import Change
from trainer_agent.description import BlockParts, LinearPart, NormPart

ATTENTION = ("query", "key", "value", "output")


def linears_of(parts: BlockParts) -> dict[str, LinearPart]:
    """The block's dense maps by role; cross-attention's begin with "cross"."""
    linears = {role: getattr(parts.attention, role) for role in ATTENTION}
    if parts.cross is not None:
        linears |= {f"cross {role}": getattr(parts.cross.attention, role) for role in ATTENTION}
    feed_forward = parts.feed_forward
    linears |= {"up": feed_forward.up, "down": feed_forward.down}
    return linears | ({"gate": feed_forward.gate} if feed_forward.gate else {})


@torch.no_grad()
def draw_block(
    model: nn.Module, parts: BlockParts, stds: dslm.BlockScaling, readers: Sequence[float]
) -> Iterator[Change]:
    """Draw a block's weights, zero its biases, make its norms plain.

    `readers` holds a factor for each branch, on the weights that read the stream.
    """
    for role, part in linears_of(parts).items():
        yield from draw_map(model, role, part, _std_of(stds, role) * _reading(role, readers))
    for norm, gain in _norms(parts).items():
        yield from plain_norm(model, norm, gain)


@torch.no_grad()
def draw_map(model: nn.Module, role: str, part: LinearPart, std: float) -> Iterator[Change]:
    """Draw one map's weight, and zero its bias."""
    yield draw(model, role, part, std)
    if part.bias is not None:
        pieces = _pieces(model.get_parameter(part.bias), part, dim=0)
        yield _set(f"{role} bias", part.bias, pieces, 0.0)


def _std_of(stds: dslm.BlockScaling, role: str) -> float:
    prefix, _, map_name = role.rpartition(" ")
    source = stds.cross if prefix == "cross" else stds
    return float(getattr(source, map_name))


def _reading(role: str, readers: Sequence[float]) -> float:
    """The factor on this map; 1 where it does not read the stream."""
    if role in {"up", "gate"}:
        return readers[-1]
    if role == "cross query":
        return readers[1]
    return readers[0] if role in {"query", "key", "value"} else 1.0


def _norms(parts: BlockParts) -> dict[NormPart, float]:
    """Each norm's gain: 1, but sqrt(1 - p) on a branch that dropout follows."""
    gains = dict.fromkeys(parts.norms, 1.0)
    on_branch = parts.placement == "branch"
    branches = [
        (parts.attention_norm, parts.attention_out_norm, parts.attention_residual),
        (parts.feed_forward_norm, parts.feed_forward_out_norm, parts.feed_forward_residual),
    ]
    if parts.cross is not None:
        branches.append((parts.cross.norm, parts.cross.out_norm, parts.cross.residual))
    for norm, out_norm, residual in branches:
        last = norm if on_branch else out_norm
        if last is not None:
            gains[last] = math.sqrt(1 - residual.p_drop)
    return gains


def draw(model: nn.Module, role: str, part: LinearPart, std: float) -> Change:
    """Draw one map's weight from a normal distribution."""
    pieces = _pieces(model.get_parameter(part.weight), part, dim=1 if part.input_first else 0)
    old = _rms(pieces)
    for piece in pieces:
        piece.normal_(0.0, std)
    return Change(role, part.weight, old, _rms(pieces))


@torch.no_grad()
def draw_whole(model: nn.Module, role: str, name: str, std: float) -> Change:
    """Draw a whole parameter; an embedding's padding row stays zero."""
    parameter = model.get_parameter(name)
    owner = model.get_submodule(name.rpartition(".")[0])
    old = _rms([parameter])
    parameter.normal_(0.0, std)
    if isinstance(owner, nn.Embedding) and owner.padding_idx is not None:
        parameter[owner.padding_idx].zero_()
    return Change(role, name, old, _rms([parameter]))


@torch.no_grad()
def scale_whole(model: nn.Module, name: str, factor: float) -> float:
    """Multiply a parameter; returns its root mean square after."""
    parameter = model.get_parameter(name)
    parameter.mul_(factor)
    return _rms([parameter])


@torch.no_grad()
def zero(model: nn.Module, role: str, name: str) -> Change:
    """Set a parameter to zero."""
    return _set(role, name, [model.get_parameter(name)], 0.0)


@torch.no_grad()
def plain_norm(model: nn.Module, norm: NormPart, gain: float = 1.0) -> Iterator[Change]:
    """Set a norm's gain, and its bias to zero."""
    for role, name, value in (
        ("norm gain", norm.weight, gain / norm.factor - norm.gain_offset),
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
