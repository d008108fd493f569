"""What lies around the blocks: what the stream is made of before them, and the head after them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.deepscale_lm.probe import Batch
from trainer_agent.description import Architecture, StackParts
from trainer_agent.description.trace.replay import call_arguments, stream_of, undisturbed

MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Source:
    """A parameter that the stream into block 0 is made of.

    Attributes:
        name: the parameter's.
        fan_in: numbers that each of its outputs sums up; 1 where it is looked up or added.
        bias: of a map, or None.
        added: whether it is summed with the others; a class token is put beside them.
        is_map: whether it is a dense map or a convolution of what goes in.
        drawn: whether it is trained; what is frozen is counted and left as it is.
        free: whether a module holds it itself, as (1, tokens, width).
    """

    name: str
    fan_in: int = 1
    bias: str | None = None
    added: bool = True
    is_map: bool = False
    drawn: bool = True
    free: bool = False


@dataclass(slots=True)
class Entrance:
    """What comes before one stack's block 0.

    Attributes:
        sources: what is summed into the stream.
        p_drop: dropout on the sum.
        variance: of the stream into block 0.
    """

    sources: list[Source] = field(default_factory=list)
    p_drop: float = 0.0
    variance: float = math.nan

    @property
    def source_std(self) -> float:
        """sqrt((1 - p) / T), for T sources and dropout p after their sum; arXiv 2403.09635, §4."""
        added = sum(source.added for source in self.sources)
        return math.sqrt((1 - self.p_drop) / max(added, 1))


@dataclass(slots=True)
class Surroundings:
    """Around all stacks.

    Attributes:
        entrances: by the stack's name.
        head: path of the map to the vocabulary or the classes, or None.
        head_input: root mean square of what the head takes in.
        called: paths of all modules that the forward pass called.
    """

    entrances: dict[str, Entrance]
    head: str | None = None
    head_input: float = 1.0
    called: set[str] = field(default_factory=set)


def surroundings(model: nn.Module, architecture: Architecture, batch: Batch) -> Surroundings:
    """Run the model once and note what is called before and after the blocks."""
    args, kwargs = call_arguments(batch)
    watch = _Watch(model, architecture)
    try:
        watch.hook()
        with undisturbed(model), torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in watch.handles:
            handle.remove()
    return watch.found


class _Watch:
    """Hooks for the length of one forward pass; what is called belongs to the stack to come."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        self.model = model
        self.first = {stack.blocks[0]: stack for stack in architecture.stacks}
        self.blocks = [path for stack in architecture.stacks for path in stack.blocks]
        self.pending = Entrance()
        self.found = Surroundings({})
        self.handles: list[Any] = []

    def hook(self) -> None:
        """Hook every module, and what enters each stack."""
        inside = {m for path in self.blocks for m in self.model.get_submodule(path).modules()}
        for path, module in self.model.named_modules():
            outside = module not in inside
            self.handles.append(module.register_forward_hook(self._leave(path, outside)))
            if path in self.first:
                enter = self._enter(self.first[path])
                self.handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))

    def _enter(self, stack: StackParts) -> Any:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            stream = stream_of(args, dict(kwargs))
            assert stream is not None  # the architecture pass saw it
            self._add(self._around(stack))
            self.pending.sources = _without_bridges(self.pending.sources)
            self.pending.variance = float(stream.float().var(correction=0))
            self.found.entrances[stack.name] = self.pending
            self.pending, self.found.head = Entrance(), None

        return enter

    def _leave(self, path: str, outside: bool) -> Any:
        def leave(module: nn.Module, args: tuple[Any, ...], _output: Any) -> None:
            self.found.called.add(path)
            if outside:
                self._note(path, module, args)

        return leave

    def _note(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Dropout):
            self.pending.p_drop = module.p
        elif isinstance(module, nn.Embedding):
            self.pending.p_drop = 0.0
            self._add([Source(f"{path}.weight", drawn=module.weight.requires_grad)])
        elif isinstance(module, MAPS):
            self._note_map(path, module, args)
        else:
            self._add(_free(path, module))

    def _note_map(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        weight, bias = module.weight, f"{path}.bias" if module.bias is not None else None
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Linear) and self.found.entrances and args:
            self.found.head = path
            self.found.head_input = float(args[0].float().square().mean().sqrt())
        self.pending.p_drop = 0.0
        self._add([Source(f"{path}.weight", weight[0].numel(), bias, is_map=True)])

    def _add(self, sources: list[Source]) -> None:
        self.pending.sources += [s for s in sources if s not in self.pending.sources]

    def _around(self, stack: StackParts) -> list[Source]:
        """Position and class tokens held by a module that the blocks are inside of."""
        parents = {""}
        parts = stack.blocks[0].split(".")
        parents |= {".".join(parts[:i]) for i in range(1, len(parts))}
        candidates = [
            s for path in sorted(parents) for s in _free(path, self.model.get_submodule(path))
        ]
        d_model = stack.d_model
        shapes = {s.name: self.model.get_parameter(s.name).shape for s in candidates}
        return [s for s in candidates if len(shapes[s.name]) == 3 and shapes[s.name][-1] == d_model]


def _without_bridges(sources: list[Source]) -> list[Source]:
    """Maps make the stream only where no table does; else they stand between or beside them."""
    tables = [s for s in sources if not s.is_map]
    return tables if any(not s.free for s in tables) else sources


def _free(path: str, module: nn.Module) -> list[Source]:
    """Parameters of (1, tokens, width) that a module holds itself, as for positions in images."""
    prefix = f"{path}." if path else ""
    parameters = module.named_parameters(recurse=False)
    tokens = {prefix + name: p.shape for name, p in parameters if p.ndim == 3 and p.requires_grad}
    return [
        Source(name, added=shape[1] > 1, free=True)
        for name, shape in tokens.items()
        if shape[0] == 1
    ]
