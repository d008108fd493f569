"""A model and a batch, as the theory sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.hooks import RemovableHandle

import dslm.spec as theory
from dslm.masks.cell_sizes import block_cells
from dslm.validation import validate
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.token_axis import assumed, batch_first
from trainer_agent.description.flow.probe import FlowProbe, PassesOfAll
from trainer_agent.description.hints import Hint, HintError
from trainer_agent.description.planning import plan_of
from trainer_agent.description.read.head import scalars_of
from trainer_agent.description.read.head_trace import padding_of
from trainer_agent.description.read.parts import Architecture, StackParts
from trainer_agent.description.read.recognition import architecture
from trainer_agent.description.spec.carried import carried
from trainer_agent.description.spec.dependence import dependences
from trainer_agent.description.spec.doubts import assumed_gradients, zero_rows
from trainer_agent.description.spec.kernels import kernel
from trainer_agent.description.spec.moments import Connection, weigh
from trainer_agent.description.spec.weight_sums import Rows
from trainer_agent.description.trace.replay import (
    call_arguments,
    result_of,
    stream_of,
    undisturbed,
)
from trainer_agent.description.trace.unsharded import holds_shards
from trainer_agent.model.unwrap import unwrap


def describe(
    model: nn.Module, batch: Tensor | Mapping[str, Any], *, hints: Sequence[Hint] = ()
) -> theory.ModelSpec:
    """Architecture, today's weight moments, and the kernels of this batch.

    `batch` is what the model's forward takes: a tensor, or a dict passed as keywords. Where the
    output holds a loss (a field `loss`, or its one differentiable scalar), the kernel of its
    gradient at the last block is taken too. The model
    runs in its own mode, dropout included, and is left as it was: gradients, random state,
    buffers and hooks. Of a model whose parameters are sharded (FSDP2, DTensor) all processes must
    ask at the same time: parameters are gathered for it. `hints` say what it cannot see, or sees
    wrongly. Raises TypeError for another kind of batch, ValueError where the model cannot run on
    it, HintError for a hint that does not fit the model, and SpecError where hints make an
    impossible one.
    """
    model = unwrap(model)
    args, kwargs = call_arguments(batch)
    try:
        layout = architecture(model, args, kwargs, hints=hints)
    except HintError:
        raise
    except (TypeError, RuntimeError, ValueError, IndexError, KeyError) as error:
        name = type(model).__name__
        raise ValueError(f"batch: {name}'s forward fails on it: {error}") from error
    guard = Guard()
    probe = FlowProbe(PassesOfAll(), guard, OverheadAccount())
    if not holds_shards(model):
        with guard.at("flow"):
            probe.open(model, plan_of(layout), layout, kwargs)
    streams = _run(model, layout, args, kwargs)
    flow = probe.close()
    weights = weigh(layout, model).added_up(
        over_all_processes if holds_shards(model) else lambda rows: rows
    )
    blocks, links = weights.blocks(), weights.connections()
    mask = padding_of(kwargs)
    flows = {} if flow is None else {s.name: flow.flows(s.blocks) for s in layout.stacks}
    spec = theory.ModelSpec(
        family=layout.family,
        stacks={
            s.name: replace(
                _stack(s, blocks[s.name], links[s.name], streams[s.name], mask),
                carried=carried(blocks[s.name], flows.get(s.name, ())),
            )
            for s in layout.stacks
            if streams[s.name].first is not None
        },
        missing=(*layout.missing, *_not_entered(layout, streams)),
        batch_size=_batch_size(layout, streams),
        n_params=layout.n_params,
        notes=layout.notes,
        flows=flows,
    )
    spec = replace(
        spec,
        missing=(*spec.missing, *assumed_gradients(spec.stacks)),
        notes=(*spec.notes, *zero_rows(spec.stacks), *dependences(layout, model)),
    )
    if hints:
        validate(spec)
    return spec


@dataclass(slots=True)
class _Streams:
    """What went into a stack, what came out, and dLoss/d(what came out)."""

    first: Tensor | None = None
    last: Tensor | None = None
    grad: Tensor | None = None


def _run(
    model: nn.Module, layout: Architecture, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, _Streams]:
    """One forward pass in the model's own mode, and a backward pass down to the first blocks."""
    streams = {stack.name: _Streams() for stack in layout.stacks}
    handles = [h for s in layout.stacks for h in _hooks(model, s, streams[s.name])]
    try:
        with undisturbed(model), torch.enable_grad():
            inside = not holds_shards(model)
            _differentiate(model(*args, **kwargs), streams, inside=inside)
    finally:
        for handle in handles:
            handle.remove()
    return streams


def _not_entered(layout: Architecture, streams: Mapping[str, _Streams]) -> Iterator[theory.Missing]:
    for stack in layout.stacks:
        if streams[stack.name].first is None:
            yield theory.Missing(
                stack.name, "input", "the pass described called none of its blocks"
            )


def _hooks(model: nn.Module, stack: StackParts, into: _Streams) -> list[RemovableHandle]:
    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A pass may skip the first block: the stack begins with the first that is called.
        if into.first is None:
            into.first = stream_of(args, kwargs)

    def leave(_: nn.Module, _args: object, output: Any) -> None:
        into.last = result_of(output)

    def leave_before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        into.last = stream_of(args, kwargs)

    enters = [stack.ends(index)[0].module for index in range(len(stack.blocks))]
    last, leaves = stack.ends(-1)[1], None
    module = model.get_submodule(last.module)
    if last.is_input:
        leaves = module.register_forward_pre_hook(leave_before, with_kwargs=True)
    else:
        leaves = module.register_forward_hook(leave)
    blocks = [model.get_submodule(path) for path in enters]
    return [
        *(block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks),
        leaves,
    ]


def _differentiate(output: Any, streams: dict[str, _Streams], *, inside: bool) -> None:
    """Gradients of the output's loss at the last blocks; touches no parameter's gradient.

    Then those of the first blocks, for what looks on between, as far as they can be had: a
    checkpoint that runs blocks again inside the backward pass refuses.
    """
    loss = _loss_of(output)
    tops = [s for s in streams.values() if s.last is not None and s.last.requires_grad]
    if loss is None or not tops:
        return
    inputs = [s.last for s in tops if s.last is not None]
    firsts = [s.first for s in tops if s.first is not None and s.first.requires_grad]
    firsts = firsts if inside else []
    grads = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=bool(firsts))
    for stream, grad in zip(tops, grads, strict=True):
        stream.grad = grad
    if firsts:
        with suppress(RuntimeError):
            torch.autograd.grad(loss, firsts, allow_unused=True)


def _loss_of(output: Any) -> Tensor | None:
    """The one differentiable scalar in an output: itself, a field, or an item of it."""
    scalars = [value for value in scalars_of(output) if value.requires_grad]
    return scalars[0] if len(scalars) == 1 else None


def _stack(
    stack: StackParts,
    blocks: tuple[theory.Block | None, ...],
    link: Connection,
    streams: _Streams,
    mask: Tensor | None,
) -> theory.Stack:
    assert streams.first is not None  # stacks that were not entered are left out
    axis = assumed(stack.token_axis)
    first, mask = batch_first(streams.first, mask, axis)
    gradient = streams.grad
    if gradient is not None:
        gradient, _ = batch_first(gradient, None, axis)
    cells = partial(block_cells, blocks)
    return theory.Stack(
        d_model=stack.d_model,
        blocks=blocks,
        input_kernel=kernel(first, mask, cells),
        top_gradient_kernel=None if gradient is None else kernel(gradient, mask, cells),
        reads=link.reads,
        final_norm=link.final_norm,
        final_p_drop=link.final_p_drop,
        head=None if link.head is None else link.head.on(cells),
    )


def _batch_size(layout: Architecture, streams: Mapping[str, _Streams]) -> int:
    firsts = ((assumed(stack.token_axis), streams[stack.name].first) for stack in layout.stacks)
    return max((x.shape[1 - axis] for axis, x in firsts if x is not None), default=1)


def over_all_processes(rows: Rows) -> Rows:
    """Sums over the processes of the job, on whatever device its collectives run."""
    gathered: list[Rows | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, rows)
    total: Rows = np.stack([part for part in gathered if part is not None]).sum(0)
    return total
