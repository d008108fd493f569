"""Recognising a model: its blocks found by structure, each understood from one traced forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from dslm.spec import Missing
from trainer_agent.description.hints import Hint, hinted_columns
from trainer_agent.description.read.block import BlockCall, block_call
from trainer_agent.description.read.by_hand import block_by_hand
from trainer_agent.description.read.encoder_output import Memories, Memory
from trainer_agent.description.read.head_trace import Heads, padding_of
from trainer_agent.description.read.parts import Architecture, BlockParts, StackParts
from trainer_agent.description.trace.graph import UnrecognisedError
from trainer_agent.description.trace.replay import result_of, stream_of, undisturbed
from trainer_agent.description.trace.tracer import Node, Trace
from trainer_agent.description.trace.unsharded import unsharded
from trainer_agent.job.gradient_norm import local
from trainer_agent.model.blocks import Column, columns
from trainer_agent.model.unwrap import unwrap

# what reading an unforeseen graph may run into: the model's own pass has not failed
UNFORESEEN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
FAMILIES = frozenset({"gpt2", "bert", "llama"})


def architecture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    hints: Sequence[Hint] = (),
) -> Architecture:
    """Blocks and parts of a model, from one forward pass on ``model(*args, **kwargs)``.

    The pass runs without gradients or dropout and leaves parameters, buffers, gradients, random
    state, mode and hooks as they were. Hooks of the user's own do see the pass. What is not
    understood is named in `missing`. Raises what the model raises on these inputs, and HintError
    for a hint that does not fit the model.
    """
    model = unwrap(model)
    found = hinted_columns(model, columns(model), hints)
    watcher = _Watcher(model, found, hints)
    blocks = [block for column in found for block in column.blocks]
    with undisturbed(model), torch.no_grad(), unsharded(model, blocks) as names:
        watcher.run(args, dict(kwargs or {}), names)
        stacks, missing = _stacks(found, watcher.blocks)
        stacks = tuple(_with_head(stack, watcher.heads) for stack in stacks)
    missing += watcher.heads.missing
    return Architecture(
        family=_family(model),
        stacks=stacks,
        missing=missing,
        n_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        notes=tuple(_copies(stacks, model)),
    )


def _copies(stacks: tuple[StackParts, ...], model: nn.Module) -> Iterator[str]:
    """Says which stacks start from copies of one block, as ``nn.TransformerEncoder`` makes them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for stack in stacks:
        ups = [parameters[p.feed_forward.up.weight] for p in stack.parts[:2] if p is not None]
        if len(ups) == 2 and torch.equal(*map(local, ups)):
            yield (
                f"{stack.name}: when first seen, blocks 0 and 1 held equal weights; the theory "
                "takes those of different blocks as independent, and is off by tens of percent "
                "where they are not: draw each block's weights anew"
            )


def _with_head(stack: StackParts, heads: Heads) -> StackParts:
    first, last = stack.blocks[0], stack.blocks[-1]
    return replace(stack, head=heads.of(first, last))


def _family(model: nn.Module) -> str:
    name = getattr(getattr(model, "config", None), "model_type", None)
    return name if name in FAMILIES else "custom"


@dataclass(slots=True)
class _Seen:
    """What one block's call gave."""

    d_model: int
    order: int
    parts: BlockParts | None = None
    missing: Missing | None = None
    memory: Memory | None = None
    stack: str | None = None


@dataclass(slots=True)
class _Watcher:
    """Hooks on every module for the length of one forward pass."""

    model: nn.Module
    found: tuple[Column, ...]
    hints: Sequence[Hint] = ()
    blocks: dict[str, _Seen] = field(default_factory=dict)
    handles: list[RemovableHandle] = field(default_factory=list)
    inside: tuple[str, Node] | None = None
    heads: Heads = field(init=False)
    memories: Memories = field(init=False)

    def __post_init__(self) -> None:
        self.memories = Memories(self.model)
        self.heads = Heads(self.model, frozenset(c.blocks[0] for c in self.found))

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], names: Mapping[int, str]) -> None:
        """Trace the model's blocks while it runs once; `names` of parameters may change."""
        trace = Trace(names)
        try:
            self._hook_modules(trace)
            with trace:
                output = self.model(*args, **kwargs)
            self.heads.understand(output, padding_of(kwargs), trace)
        finally:
            trace.end()
            for handle in self.handles:
                handle.remove()

    def _hook_modules(self, trace: Trace) -> None:
        blocks = {block for column in self.found for block in column.blocks}
        self.handles += self.heads.hooks(trace.names)
        for path, module in self.model.named_modules():
            watch = self._watch_block if path in blocks else self._watch_inner
            watch(path, module, trace)

    def _watch_block(self, path: str, block: nn.Module, trace: Trace) -> None:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stream = stream_of(args, kwargs)
            self.memories.note((*args, *kwargs.values()), trace)
            if stream is not None:
                self.heads.note_input(path, stream)
                self.inside = (path, trace.begin(path, stream))

        def leave(_: nn.Module, _args: object, output: Any) -> None:
            if self.inside is not None and self.inside[0] == path:
                self._understand(path, self.inside[1], output, trace)
                self.inside = None
                trace.end()
                self._follow(path, output, trace)

        self.handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        self.handles.append(block.register_forward_hook(leave))

    def _watch_inner(self, path: str, module: nn.Module, trace: Trace) -> None:
        small = _is_small(module)

        def enter(_: nn.Module, _args: object) -> None:
            if trace.recording:
                trace.enter_module(path)

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if trace.recording:
                trace.leave_module(path)
                if small:
                    trace.collapse(path, args, output)

        self.handles.append(module.register_forward_pre_hook(enter))
        # first of all hooks: what another one makes of the output is not the module's own
        self.handles.append(module.register_forward_hook(leave, prepend=True))

    def _follow(self, path: str, output: Any, trace: Trace) -> None:
        """After a stack's last block, where another stack is still to come."""
        ends = any(column.blocks[-1] == path for column in self.found)
        to_come = any(self.blocks.keys().isdisjoint(column.blocks) for column in self.found)
        result = result_of(output)
        if ends and result is not None:
            follow = self.memories.follow if to_come else self.heads.follow
            follow(path, result, trace)

    def _understand(self, path: str, stream: Node, output: Any, trace: Trace) -> None:
        seen = _Seen(stream.value.shape[-1], len(self.blocks))
        again = path in self.blocks
        self.blocks[path] = seen
        try:
            if again:
                raise UnrecognisedError(path, "shared block", "the model calls it more than once")
            call = _call(path, stream, output, trace, self.model)
            seen.memory = self._memory(call)
            seen.parts = call.parts
        except UnrecognisedError as error:
            where = error.where if error.where.startswith(path) else path
            seen.missing = Missing(where, error.what, error.why)
        except UNFORESEEN as error:
            seen.missing = Missing(path, "block", f"{type(error).__name__} on reading it: {error}")
        self._heed_hints(path, seen)

    def _heed_hints(self, path: str, seen: _Seen) -> None:
        for hint in self.hints:
            if hint.matches(path):
                if seen.parts is None and hint.modules:
                    seen.parts, seen.missing = block_by_hand(hint, path, self.model), None
                seen.stack = hint.stack or seen.stack
                if seen.parts is not None:
                    said = (*seen.parts.said, *hint.fields.items())
                    seen.parts = replace(seen.parts, said=said)

    def _memory(self, call: BlockCall) -> Memory | None:
        if call.memory is None:
            return None
        found = self.memories.of(call.memory)
        if found is None:
            why = "what it reads is not the output of a stack seen here, normed or not"
            raise UnrecognisedError(call.memory, "cross-attention", why)
        return found


def _is_small(module: nn.Module) -> bool:
    """Whether a module may be a norm or an activation: no parts of its own, no matrices."""
    flat = all(p.ndim <= 1 for p in module.parameters())
    return flat and next(module.children(), None) is None


def _call(path: str, stream: Node, output: Any, trace: Trace, model: nn.Module) -> BlockCall:
    result = result_of(output)
    if result is None or result.shape != stream.value.shape:
        raise UnrecognisedError(path, "output", "not shaped like the stream that goes in")
    return block_call(stream, trace.node(result), model)


def _stacks(
    found: tuple[Column, ...], seen: Mapping[str, _Seen]
) -> tuple[tuple[StackParts, ...], tuple[Missing, ...]]:
    missing: list[Missing] = []
    stacks: list[StackParts] = []
    for column in found:
        called = sorted((b for b in column.blocks if b in seen), key=lambda b: seen[b].order)
        missing += _uncalled(column, len(called))
        missing += [m for b in called if (m := seen[b].missing) is not None]
        if called:
            stacks.append(_stack(called, seen))
    if not found:
        missing.append(Missing("model", "blocks", "no row of alike modules holding matrices found"))
    named = _named_apart(stacks, missing)
    memories = [(b, s.memory) for b, s in seen.items() if s.memory is not None]
    return tuple(_connected(stack, named, memories) for stack in named), tuple(missing)


def _connected(
    stack: StackParts, stacks: tuple[StackParts, ...], memories: list[tuple[str, Memory]]
) -> StackParts:
    """The stack, with what it reads, and what stands between it and those that read it."""
    read = next((m.block for block, m in memories if block in stack.blocks), None)
    reads = next((s.name for s in stacks if s.blocks[-1] == read), None)
    own = next((m for _, m in memories if m.block == stack.blocks[-1]), None)
    if own is None:
        return replace(stack, reads=reads)
    return replace(stack, reads=reads, final_norm=own.norm, final_p_drop=own.p_drop)


def _uncalled(column: Column, n_called: int) -> list[Missing]:
    if n_called == 0:
        why = "never called on a (batch, seq, features) stream in this forward pass"
        return [Missing(column.container or "model", "blocks", why)]
    return []


def _stack(called: list[str], seen: Mapping[str, _Seen]) -> StackParts:
    parts = tuple(seen[b].parts for b in called)
    causal = {p.causal for p in parts if p is not None}
    name = seen[called[0]].stack or ("encoder" if causal == {False} else "decoder")
    return StackParts(name, tuple(called), parts, seen[called[0]].d_model)


def _named_apart(stacks: list[StackParts], missing: list[Missing]) -> tuple[StackParts, ...]:
    """At most one stack of each name, encoder first."""
    by_name: dict[str, StackParts] = {}
    for stack in stacks:
        if stack.name in by_name:
            why = f"a second {stack.name}; one is shown"
            missing.append(Missing(stack.blocks[0].rpartition(".")[0], "blocks", why))
        else:
            by_name[stack.name] = stack
    return tuple(by_name[name] for name in ("encoder", "decoder") if name in by_name)
