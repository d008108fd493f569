"""Where the sites of a `dslm.flows.BlockFlow` are: which module takes in or puts out which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from trainer_agent.capture.token_axis import assumed
from trainer_agent.description.planning import module_of
from trainer_agent.description.read.parts import (
    Added,
    AttentionParts,
    BlockParts,
    LinearPart,
    NormPart,
)
from trainer_agent.description.trace.graph import Run

# In the order of `dslm.flows.BlockFlow`, the same in every process.
STEPS = ("attention", "cross", "feed_forward")
FORWARD = (
    "in",
    "out",
    *(f"{step}.{end}" for step in STEPS for end in ("stream", "sum", "in", "output", "normed")),
    *(f"{step}.{name}" for step in STEPS[:2] for name in ("query", "key", "value")),
    *(f"{step}.{name}" for step in STEPS[:2] for name in ("average", "mixed")),
    *(f"feed_forward.{name}" for name in ("up", "gate", "hidden")),
)
BACKWARD = (*FORWARD, *(f"{step}.returned" for step in STEPS))
INSIDE_TORCH = "its maps are inside a function of torch, which shows no tensor between them"
NO_MODULE = "the norm there is no module of its own"


@dataclass(frozen=True, slots=True)
class Place:
    """A site of a block, at the input or the output of a module.

    Attributes:
        site: its name.
        module: path of the module.
        is_input: at its first tensor argument, not at its output.
        runs: the output features that belong to it; empty for all.
        width: features of the whole output where `runs` are given, else 0.
    """

    site: str
    module: str
    is_input: bool = False
    runs: tuple[Run, ...] = ()
    width: int = 0


@dataclass(frozen=True, slots=True)
class Sum:
    """A residual step backward: the gradients whose difference is what its branch returns.

    Attributes:
        step: its name.
        behind, before: sites of the gradient at its sum, and of the stream that it reads.
        lam: the skip's factor.
    """

    step: str
    behind: str
    before: str
    lam: float


@dataclass(frozen=True, slots=True)
class BlockSites:
    """The sites of one block.

    Attributes:
        places: where they are.
        sums: its residual steps backward.
        average: by values' site, (whether the attention is causal, its window).
        missing: sites without a place, and why.
        token_axis: the axis of its tensors that counts a sequence's tokens.
    """

    places: tuple[Place, ...]
    sums: tuple[Sum, ...]
    average: Mapping[str, tuple[bool, int | None]]
    missing: Mapping[str, str]
    token_axis: int = 1


def sites_of(
    parts: BlockParts, added: Mapping[str, Added], modules: Mapping[str, nn.Module]
) -> BlockSites:
    """The sites of a block that was understood; `modules` are the model's, by path."""
    places: dict[str, Place] = {}
    missing: dict[str, str] = {}
    steps = [step for step in STEPS if step != "cross" or parts.cross is not None]
    for step in steps:
        branch = dict(_of_branch(parts, step, added, modules))
        places |= {site: place for site, place in branch.items() if place is not None}
        missing |= {site: INSIDE_TORCH for site, place in branch.items() if place is None}
    for site, place in _of_stream(parts, steps, modules):
        if place is None:
            missing[site] = NO_MODULE
        else:
            places[site] = place
    averages = {
        f"{step}.value": (attention.causal, attention.window)
        for step, attention in zip(("attention", "cross"), parts.attentions, strict=False)
        if attention.prefix == 0
    }
    return BlockSites(
        places=tuple(places.values()),
        sums=tuple(_sums(parts, steps)),
        average=averages,
        missing=missing,
        token_axis=assumed(parts.attention.token_axis),
    )


def _of_branch(
    parts: BlockParts, step: str, added: Mapping[str, Added], modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, Place | None]]:
    """(site, place) of a branch; None where a dense map is no module of its own."""
    first, maps, last, mixed = _maps(parts, step)
    if step == "feed_forward" and parts.feed_forward.experts is not None:
        # One expert's maps see some of the tokens: what enters and leaves all of them is told.
        ends = added.get(step)
        router = _input(f"{step}.in", parts.feed_forward.experts.router, modules)
        yield f"{step}.in", router
        path = ends.module if ends is not None and ends.module in modules else None
        yield f"{step}.output", None if path is None else Place(f"{step}.output", path)
        return
    for name, part in maps.items():
        yield f"{step}.{name}", _output(f"{step}.{name}", part, modules)
    yield f"{step}.in", _input(f"{step}.in", maps[first], modules)
    yield f"{step}.{mixed}", _input(f"{step}.{mixed}", last, modules)
    output = _output(f"{step}.output", last, modules)
    norm = _norm_on_branch(parts, step)
    ends_in = added.get(step)
    path = None if ends_in is None else ends_in.module
    if output is None and norm is None and path is not None and path in modules:
        output = Place(f"{step}.output", path)
    yield f"{step}.output", output
    if norm is not None:
        place = _norm_place(f"{step}.normed", norm, modules, is_input=False)
        yield f"{step}.normed", place if norm.factor == 1.0 else None


def _maps(parts: BlockParts, step: str) -> tuple[str, dict[str, LinearPart], LinearPart, str]:
    """(the map that reads the stream, its maps by name, the last one, what that one reads)."""
    if step == "feed_forward":
        layer = parts.feed_forward
        gate = {} if layer.gate is None else {"gate": layer.gate}
        return "up", {"up": layer.up, **gate}, layer.down, "hidden"
    attention = _attention(parts, step)
    maps = {"query": attention.query, "key": attention.key, "value": attention.value}
    return "value", maps, attention.output, "mixed"


def _attention(parts: BlockParts, step: str) -> AttentionParts:
    return parts.cross.attention if step == "cross" and parts.cross else parts.attention


def _norm_on_branch(parts: BlockParts, step: str) -> NormPart | None:
    if parts.placement == "branch":
        return _norm(parts, step)
    if step == "cross":
        return None if parts.cross is None else parts.cross.out_norm
    return parts.attention_out_norm if step == "attention" else parts.feed_forward_out_norm


def _output(site: str, part: LinearPart, modules: Mapping[str, nn.Module]) -> Place | None:
    if not _is_map(part, modules):
        return None
    shape = dict(modules[part.module].named_parameters(recurse=False))[_own_name(part)].shape
    width = int(shape[1 if part.input_first else 0])
    runs = () if part.outputs == ((0, width),) else part.outputs
    return Place(site, part.module, runs=runs, width=width if runs else 0)


def _input(site: str, part: LinearPart, modules: Mapping[str, nn.Module]) -> Place | None:
    return Place(site, part.module, is_input=True) if _is_map(part, modules) else None


def _is_map(part: LinearPart, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module's call is this dense map's: it holds the matrix, and nothing else."""
    module = modules.get(part.module)
    if module is None or next(module.children(), None) is not None:
        return False
    parameters = dict(module.named_parameters(recurse=False))
    weight = parameters.pop(_own_name(part), None)
    return weight is not None and weight.ndim == 2 and all(p.ndim == 1 for p in parameters.values())


def _own_name(part: LinearPart) -> str:
    return part.weight.rpartition(".")[2]


def _of_stream(
    parts: BlockParts, steps: list[str], modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, Place | None]]:
    """The stream between two steps, and what the norm of a Post-LN step reads."""
    if parts.placement == "post":
        for step in steps:
            site = f"{step}.sum"
            yield site, _norm_place(site, _norm(parts, step), modules, is_input=True)
    if parts.placement == "parallel":
        return
    for step, following in pairwise(steps):
        site = f"{step}.stream"
        if parts.placement in ("pre", "sandwich"):
            yield site, _norm_place(site, _norm(parts, following), modules, is_input=True)
            continue
        # The next branch reads the stream as it is.
        maps = _maps(parts, following)[1]
        yield site, _input(site, maps["query" if following == "cross" else "up"], modules)


def _norm(parts: BlockParts, step: str) -> NormPart | None:
    if step == "cross" and parts.cross is not None:
        return parts.cross.norm
    return parts.attention_norm if step == "attention" else parts.feed_forward_norm


def _norm_place(
    site: str, norm: NormPart | None, modules: Mapping[str, nn.Module], *, is_input: bool
) -> Place | None:
    """Where a norm is a module: its parameters may also be those of the block that computes it."""
    path = module_of(norm)
    module = None if path is None else modules.get(path)
    if path is None or module is None or next(module.children(), None) is not None:
        return None
    return Place(site, path, is_input=is_input)


def _sums(parts: BlockParts, steps: list[str]) -> Iterator[Sum]:
    residuals = {
        "attention": parts.attention_residual,
        "cross": parts.cross.residual if parts.cross else None,
        "feed_forward": parts.feed_forward_residual,
    }
    if parts.placement == "parallel":
        yield Sum("attention", "out", "in", parts.attention_residual.lam)
        return
    for index, step in enumerate(steps):
        residual = residuals[step]
        before = "in" if index == 0 else f"{steps[index - 1]}.stream"
        behind = "out" if step == steps[-1] else f"{step}.stream"
        behind = f"{step}.sum" if parts.placement == "post" else behind
        yield Sum(step, behind, before, residual.lam if residual else 1.0)
