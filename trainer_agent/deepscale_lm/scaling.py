"""DeepScaleLM applied to a real model, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

import dslm
from trainer_agent.description import Architecture, StackParts, measure
from trainer_agent.description.replay import eager

from .drawing import draw_block, draw_table, draw_whole, linears_of
from .probe import Surroundings, probe_batch, surroundings, understood
from .report import Change, DeepScaleError, Report
from .residual_scales import (
    hook_scales,
    is_scaled,
    own_scales,
    residuals_are,
    scale_input,
    set_scales,
)

SAME_VARIANCE = 1.5  # a small table's draw, and positions seen by few tokens, scatter
Batch = Tensor | Mapping[str, Any]


def deepscale(model: nn.Module, batch: Batch | None = None) -> Report:
    """Give a model DeepScaleLM's weights and residual scales; returns what was changed.

    Draws embeddings, attention, feed-forward and head anew from torch's global random state,
    zeroes biases, sets the blocks' norms to one, and makes every residual step
    lam·x + beta·f(x), so that stream and gradient keep unit variance over depth. Call it on a
    fresh model, before the optimizer is built and before ``torch.compile``. It describes the
    model on `batch`, or on random ids distributed as words are. State dict keys stay the same;
    load a state dict into a model that went through `deepscale` too.

    Raises DeepScaleError naming what is not supported; then nothing has changed. For that the
    parameters are held twice while it runs.
    """
    model = eager(model)
    if is_scaled(model):
        raise DeepScaleError("the model has DeepScaleLM's residual scales already")
    batch = probe_batch(model) if batch is None else batch
    with _in_training_mode(model):
        (stack,) = understood(model, batch).stacks
        _check_unshared(stack)
        with _all_or_nothing(model, stack):
            return _apply(model, stack, batch)


def _apply(model: nn.Module, stack: StackParts, batch: Batch) -> Report:
    around = surroundings(model, stack, batch)
    changes = list(_embeddings(model, around))
    around = surroundings(model, stack, batch)
    _check_input(stack, around)
    wanted = _wanted(model, stack, around)
    changes += _blocks(model, stack, wanted)
    residual = _residuals(model, stack, wanted.lam, wanted.beta)
    head, notes = _head(model, around, wanted)
    after = understood(model, batch)
    if not residuals_are(after.stacks[0], wanted.lam, wanted.beta):
        raise DeepScaleError(f"{stack.blocks[0]}: its residual scales do not follow what is set")
    return Report(
        lam=wanted.lam,
        beta=wanted.beta,
        n_blocks=len(stack.blocks),
        residual=residual,
        input_variance=around.variance,
        changes=tuple(changes + head),
        notes=notes,
    )


def _embeddings(model: nn.Module, around: Surroundings) -> Iterator[Change]:
    """Tables that sum to a stream of unit variance, dropout included."""
    if not around.embeddings:
        raise DeepScaleError("no nn.Embedding is looked up before the blocks")
    for path in around.embeddings:
        yield draw_table(model, path, around.table_std)


def _check_input(stack: StackParts, around: Surroundings) -> None:
    if not 1 / SAME_VARIANCE < around.variance < SAME_VARIANCE:
        raise DeepScaleError(
            f"{stack.blocks[0]}: its input has variance {around.variance:.3g}, not 1, with "
            f"embeddings of standard deviation {around.table_std:.3g}: something else scales it "
            "or is added to it"
        )


def _wanted(model: nn.Module, stack: StackParts, around: Surroundings) -> dslm.Scaling:
    """What the theory asks for, given which tokens of the batch are alike."""
    blocks = measure(Architecture("custom", (stack,), (), 0), model)[stack.name]
    return dslm.deepscale(
        dslm.Stack(stack.d_model, blocks, around.input_kernel),
        n_embedding_tables=len(around.embeddings),
        p_embedding_drop=around.p_drop,
    )


def _blocks(model: nn.Module, stack: StackParts, wanted: dslm.Scaling) -> Iterator[Change]:
    for parts, stds in zip(stack.parts, wanted.blocks, strict=True):
        assert parts is not None  # `understood` raises where one is not
        yield from draw_block(model, parts, asdict(stds))


def _residuals(model: nn.Module, stack: StackParts, lam: float, beta: float) -> str:
    own = own_scales(model, stack)
    if own:
        set_scales(model, dict.fromkeys(own, (lam, beta)))
        return "attributes"
    hook_scales(model, stack, lam, beta)
    return "hooks"


def _head(
    model: nn.Module, around: Surroundings, wanted: dslm.Scaling
) -> tuple[list[Change], tuple[str, ...]]:
    """Unit variance of the head's output; a head tied to the embedding has its input scaled."""
    if around.head is None:
        return [], ()
    weight = model.get_parameter(f"{around.head}.weight")
    if any(weight is model.get_parameter(f"{path}.weight") for path in around.embeddings):
        factor = wanted.tied_head_input
        scale_input(model.get_submodule(around.head), factor)
        return [], (f"head {around.head}: tied to the embedding; input scaled by {factor:.4g}",)
    return [draw_whole(model, "head", f"{around.head}.weight", wanted.head)], ()


def _check_unshared(stack: StackParts) -> None:
    """Two maps on one weight cannot have two standard deviations."""
    seen: set[tuple[str, tuple[tuple[int, int], ...]]] = set()
    for parts in stack.parts:
        assert parts is not None
        for part in linears_of(parts).values():
            key = (part.weight, part.outputs)
            if key in seen:
                raise DeepScaleError(f"{part.weight}: used by more than one map")
            seen.add(key)


@contextmanager
def _in_training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode for as long as this lasts: that is where dropout counts."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _all_or_nothing(model: nn.Module, stack: StackParts) -> Iterator[None]:
    """Put parameters, scales, hooks and random state back if anything goes wrong."""
    held = {name: p.detach().clone() for name, p in model.named_parameters()}
    scales = {path: tuple(map(_value, pair)) for path, pair in own_scales(model, stack).items()}
    hooks = {m: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()}
    random = torch.get_rng_state()
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, value in held.items():
                model.get_parameter(name).copy_(value)
        set_scales(model, {path: (pair[0], pair[1]) for path, pair in scales.items()})
        for module, (after, before) in hooks.items():
            _keep_only(module._forward_hooks, after)
            _keep_only(module._forward_pre_hooks, before)
        torch.set_rng_state(random)
        raise


def _value(scale: Any) -> float:
    return float(scale)


def _keep_only(hooks: dict[int, Any], kept: dict[int, Any]) -> None:
    for key in [k for k in hooks if k not in kept]:
        del hooks[key]
