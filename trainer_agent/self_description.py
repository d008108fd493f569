"""The watched model described by itself, from a step it takes anyway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import dslm
from dslm.spec import Block, Head, Kernel, Missing, ModelSpec, Stack
from trainer_agent.capture.hooks import first_stream
from trainer_agent.capture.plan import Plan, StackPlan
from trainer_agent.capture.probe import Begin
from trainer_agent.capture.recorder import ONCE, Recorder
from trainer_agent.description import (
    Architecture,
    Connection,
    StackParts,
    architecture,
    connections,
    kernel,
    measure,
)
from trainer_agent.description.by_hand import hinted_columns
from trainer_agent.description.parts import BlockParts, NormPart
from trainer_agent.description.replay import eager
from trainer_agent.description.stacks import columns
from trainer_agent.hints import Hint

FIRST_AGAIN = 50
TIMES_LATER = 4
WITHOUT_DROPOUT = (
    "the blocks are compiled: the input kernel is that of the first step's batch without dropout "
    "or padding mask, and gradients at the top are taken as independent between tokens"
)

COMPILED_WHOLE = (
    "the model is compiled as a whole: the weights are those after the step described, and what "
    "attention and feed-forward add is not measured"
)


SHARDED = Missing(
    "model",
    "sharded parameters",
    "a forward pass of the agent's own would be a collective, which other processes might not join",
)


def _is_sharded(model: nn.Module) -> bool:
    flat = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    return flat or any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def plan_by_structure(model: nn.Module, hints: Sequence[Hint] = ()) -> Plan:
    """Blocks as the module tree and hints show them, before the model has been called."""
    stacks: dict[str, StackPlan] = {}
    inner = eager(model)
    for column in hinted_columns(inner, columns(inner), hints):
        name = "encoder" if "encoder" in column.container.lower() else "decoder"
        unknown = (None,) * len(column.blocks)
        stacks.setdefault(name, StackPlan(name, column.blocks, unknown, unknown))
    return Plan(tuple(stacks[name] for name in sorted(stacks, reverse=True)))


def plan_of(known: Architecture) -> Plan:
    """Blocks and branches as the model's own forward pass showed them."""
    return Plan(tuple(_stack_plan(stack) for stack in known.stacks))


def _stack_plan(stack: StackParts) -> StackPlan:
    return StackPlan(
        name=stack.name,
        blocks=stack.blocks,
        attention=tuple(p.attention.output.module if p else None for p in stack.parts),
        feed_forward=tuple(p.feed_forward.down.module if p else None for p in stack.parts),
        projections=tuple(_projections(p) for p in stack.parts),
        attention_norm=tuple(_module_of(p.attention_norm) if p else None for p in stack.parts),
        feed_forward_norm=tuple(
            _module_of(p.feed_forward_norm) if p else None for p in stack.parts
        ),
        n_heads=_heads(stack.parts),
    )


def _module_of(norm: NormPart) -> str | None:
    """Path of a norm's module; one without parameters has no name to be found by."""
    parameter = norm.weight or norm.bias
    return parameter.rpartition(".")[0] if parameter else None


def _heads(blocks: Sequence[BlockParts | None]) -> int:
    counts = {block.attention.n_heads for block in blocks if block is not None}
    return counts.pop() if len(counts) == 1 else 0


def _projections(block: BlockParts | None) -> tuple[str, ...]:
    if block is None:
        return ()
    attention = block.attention
    found = dict.fromkeys(part.module for part in (attention.query, attention.key, attention.value))
    return () if attention.output.module in found else tuple(found)


class Watched(Protocol):
    """What sets the hooks on the model: a probe, or its view of one chunk."""

    begin: Begin
    plan: Plan

    def follow(self, plan: Plan) -> None:
        """Measure the places of `plan` from now on."""

    def unseen(self) -> AbstractContextManager[None]:
        """Let forward passes of our own go by uncounted."""
        ...


@dataclass(slots=True)
class _Notes:
    """What one sampled step has shown so far."""

    blocks: Mapping[str, tuple[Block | None, ...]] = field(default_factory=dict)
    connections: Mapping[str, Connection] = field(default_factory=dict)
    inputs: dict[str, Kernel] = field(default_factory=dict)
    gradients: dict[str, Kernel] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    batch_size: int = 1
    remarks: tuple[str, ...] = ()


class SelfDescription:
    """Listens to the probe and makes a `ModelSpec` of the steps it is asked to describe.

    The architecture is found once, in the first sampled forward pass, and the plan follows it.
    Weight moments are read before the step's forward, so before its update.
    """

    def __init__(
        self, model: nn.Module, probe: Watched, recorder: Recorder, hints: Sequence[Hint] = ()
    ) -> None:
        self._hints = hints
        self._model, self._probe, self._recorder = model, probe, recorder
        self._known: Architecture | None = None
        self._failure: Missing | None = None
        self._wanted = True
        self._again_at = FIRST_AGAIN
        self._notes: _Notes | None = None
        self._undropped: dict[str, tuple[Kernel, torch.Size]] = {}
        probe.begin = self._begin
        recorder.on_input = self._note_input
        recorder.on_top_gradient = self._note_gradient

    def ask(self) -> None:
        """Describe the next sampled step."""
        self._wanted = True

    def forget(self) -> None:
        """Describe the next sampled step instead of the one now ending."""
        self._notes, self._wanted = None, True

    def ask_from_time_to_time(self, step: int) -> None:
        """Describe `step`, the next to be sampled, where it is time: ever more rarely."""
        if step >= self._again_at:
            self.ask()
        while step >= self._again_at:
            self._again_at *= TIMES_LATER

    def take(self) -> Callable[[], dict[str, Any]] | None:
        """What the step now ending has shown, to be packed in any thread; None if not asked."""
        if self._wanted and self._recorder.given is not None:
            self._begin_late(*self._recorder.given)
        self._recorder.given = None
        notes, self._notes = self._notes, None
        if notes is None:
            return None
        if not notes.inputs:
            self._fall_back(notes)
        if not notes.inputs and self._failure is None:
            return None
        return lambda: _packed(self._spec(notes))

    def _begin_late(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Describe a model that is compiled as a whole, where no forward pass is seen to begin."""
        started = time.perf_counter()
        self._begin(args, kwargs)
        if self._notes is not None:
            self._notes.remarks = (COMPILED_WHOLE,)
        self._recorder.spend(ONCE, started)

    def _fall_back(self, notes: _Notes) -> None:
        """Take the inputs of the architecture's pass, where the step's own were not seen."""
        for stack in self._probe.plan.stacks:
            if stack.blocks[0] in self._undropped:
                notes.inputs[stack.name], shape = self._undropped[stack.blocks[0]]
                notes.widths[stack.name] = shape[-1]
                notes.batch_size = max(notes.batch_size, shape[0])
                notes.remarks = (*notes.remarks, WITHOUT_DROPOUT)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._wanted:
            return
        self._wanted = False
        if self._known is None and self._failure is None:
            self._find_architecture(args, kwargs)
        self._notes = _Notes()
        if self._known is not None:
            with self._recorder.guard.at("weight moments"):
                self._notes.blocks = measure(self._known, eager(self._model))
                self._notes.connections = connections(self._known, eager(self._model))

    def _find_architecture(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if _is_sharded(self._model):
            self._failure = SHARDED
            return
        try:
            with self._probe.unseen(), self._first_inputs():
                known = architecture(self._model, args, kwargs, hints=self._hints)
            if not known.stacks:
                self._failure = next(iter(known.missing), None)
                return
            self._take_plan(known)
            self._known = known
        except Exception as error:
            self._recorder.guard.note("description", error)
            what = f"{type(error).__name__}: {error}"
            self._failure = Missing("model", what, "its forward pass could not be followed")

    def _take_plan(self, known: Architecture) -> None:
        plan = plan_of(known)
        if not self._recorder.compiled:
            self._probe.follow(plan)
            return
        # Other hooks would make torch compile again; the streams are watched already.
        held, found = ({s.name: s.blocks for s in p.stacks} for p in (self._probe.plan, plan))
        if held != found:
            raise LookupError("compiled blocks are not those that the model's forward pass calls")

    @contextmanager
    def _first_inputs(self) -> Iterator[None]:
        """Keep what enters the stacks in that pass: inside compiled blocks nobody listens."""
        kept: dict[str, Tensor] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x = first_stream((*args, *kwargs.values()))
                if x is not None:
                    kept[path] = x.detach()

            return hook

        firsts = [stack.blocks[0] for stack in self._probe.plan.stacks]
        modules = [(path, self._model.get_submodule(path)) for path in firsts]
        handles = [m.register_forward_pre_hook(keep(p), with_kwargs=True) for p, m in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._undropped = {p: (kernel(x), x.shape) for p, x in kept.items() if x.ndim == 3}

    def _note_input(self, stack: str, x: Tensor, mask: Tensor | None) -> None:
        notes = self._notes
        if notes is not None and stack not in notes.inputs:
            notes.inputs[stack] = kernel(x, mask)
            notes.widths[stack] = x.shape[-1]
            notes.batch_size = max(notes.batch_size, x.shape[0])

    def _note_gradient(self, stack: str, g: Tensor, mask: Tensor | None) -> None:
        notes = self._notes
        if notes is not None and stack not in notes.gradients:
            notes.gradients[stack] = kernel(g, mask)

    def _spec(self, notes: _Notes) -> ModelSpec:
        known = self._known
        return ModelSpec(
            family=known.family if known else "custom",
            stacks={
                s.name: _stack(s, notes) for s in self._probe.plan.stacks if s.name in notes.inputs
            },
            missing=(known.missing if known else ()) + tuple(self._failures()),
            batch_size=notes.batch_size,
            n_params=sum(p.numel() for p in self._model.parameters() if p.requires_grad),
            notes=(known.notes if known else ()) + notes.remarks,
        )

    def _failures(self) -> Iterator[Missing]:
        if self._failure is not None:
            yield self._failure


def _stack(plan: StackPlan, notes: _Notes) -> Stack:
    link = notes.connections.get(plan.name, Connection())
    return Stack(
        d_model=notes.widths[plan.name],
        blocks=notes.blocks.get(plan.name, (None,) * len(plan.blocks)),
        input_kernel=notes.inputs[plan.name],
        top_gradient_kernel=notes.gradients.get(plan.name),
        reads=link.reads,
        final_norm=link.final_norm,
        final_p_drop=link.final_p_drop,
        head=_head(link, notes.inputs[plan.name]),
    )


def _head(link: Connection, x: Kernel) -> Head | None:
    """The head with the labels of the batch it was found on; None where that was of another
    length than the one described now.
    """
    head = None if link.head is None else link.head.on(dslm.cell_sizes)
    same = head is not None and np.array_equal(head.labels.counted.cell_sizes, x.cell_sizes)
    return head if same else None


def _packed(spec: ModelSpec) -> dict[str, Any]:
    from dslm import spec_to_json

    return spec_to_json(spec)
