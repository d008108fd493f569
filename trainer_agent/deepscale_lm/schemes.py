"""Other people's initialisations applied to a real model (`dslm.schemes`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

import dslm
from dslm.schemes import Scheme, SchemeName, scheme
from trainer_agent.deepscale_lm.drawing import (
    draw_map,
    draw_whole,
    linears_of,
    plain_norm,
    zero,
)
from trainer_agent.deepscale_lm.probe import Batch, understood
from trainer_agent.deepscale_lm.report import Change, DeepScaleError
from trainer_agent.deepscale_lm.residual_scales import hook_scales, own_scales, set_scales
from trainer_agent.deepscale_lm.surroundings import Surroundings, surroundings
from trainer_agent.description import Architecture, BlockParts, StackParts, describe

UNCHANGED = "nothing"  # the residual steps stood so already


def schemes_of(model: nn.Module, batch: Batch, name: SchemeName) -> dict[str, Scheme]:
    """What the scheme sets in each stack; raises `DeepScaleError` where it is not for the model."""
    try:
        return scheme(describe(model, batch), name)
    except dslm.SpecError as error:
        raise DeepScaleError(str(error)) from None


def apply_scheme(
    model: nn.Module, architecture: Architecture, batch: Batch, schemes: Mapping[str, Scheme]
) -> tuple[list[Change], dict[str, str], Surroundings]:
    """Set what the schemes say; returns changes, how scales were put in, and what is around.

    Where the blocks carry `lam` and `beta` of their own that are alike in all blocks, these are
    set.
    """
    around = surroundings(model, architecture, batch)
    changes: list[Change] = []
    with_scales = _set_own(model, architecture, schemes)
    now = understood(model, batch) if with_scales else architecture
    ways = {}
    for stack in now.stacks:
        wanted = schemes[stack.name]
        steps = [block.residuals for block in wanted.blocks]
        changes += _blocks(model, stack, wanted)
        hooked = hook_scales(model, stack, steps, around.called)
        own = stack.name in with_scales
        put_in = [*(["attributes"] if own else []), *(["hooks"] if hooked else [])]
        ways[stack.name] = " and ".join(put_in) or UNCHANGED
    tables = {wanted.tables for wanted in schemes.values()} - {None}
    for std in tables:
        assert std is not None
        changes += _tables(model, around, std, set())
    return changes, ways, around


def _set_own(
    model: nn.Module, architecture: Architecture, schemes: Mapping[str, Scheme]
) -> set[str]:
    stacks = set()
    for stack in architecture.stacks:
        scales = own_scales(model, stack)
        steps = {step for block in schemes[stack.name].blocks for step in block.residuals}
        if scales and len(steps) == 1:
            (step,) = steps
            set_scales(model, dict.fromkeys(scales, (step.lam, step.beta)))
            stacks.add(stack.name)
    return stacks


def _blocks(model: nn.Module, stack: StackParts, wanted: Scheme) -> Iterator[Change]:
    for path, parts, block in zip(stack.blocks, stack.parts, wanted.blocks, strict=True):
        assert parts is not None  # `understood` raises where one is not
        for role, part in linears_of(parts).items() if block.stds else ():
            yield from draw_map(model, role, part, block.stds[role])
        if block.norm_gain is not None:
            yield from _gains(model, path, parts, block.norm_gain)


def _gains(model: nn.Module, path: str, parts: BlockParts, gain: float) -> Iterator[Change]:
    norms = [parts.attention_norm, parts.feed_forward_norm]
    norms += [parts.cross.norm] if parts.cross else []
    for norm in dict.fromkeys(norm for norm in norms if norm is not None):
        if norm.weight is None:
            raise DeepScaleError(f"{path}: a norm has no gain to set")
        yield from plain_norm(model, norm, gain)


def _tables(
    model: nn.Module, around: Surroundings, std: float, drawn: set[int]
) -> Iterator[Change]:
    """Draw what the streams are made of, and the head; what is shared, once."""
    sources = [source for entrance in around.entrances.values() for source in entrance.sources]
    names = [(source.name, source.bias) for source in sources if source.drawn]
    roles = dict.fromkeys((name for name, _ in names), "embedding")
    biases = {name: bias for name, bias in names if bias is not None}
    if around.head is not None:
        roles.setdefault(f"{around.head}.weight", "head")
    for name, role in roles.items():
        if id(model.get_parameter(name)) in drawn:
            continue
        drawn.add(id(model.get_parameter(name)))
        yield draw_whole(model, role, name, std)
        if name in biases:
            yield zero(model, f"{role} bias", biases[name])
