"""What a process runs one by one: the chunks of its stages of a pipeline, or the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import nn

from trainer_agent.model.plan import STAGE_SEPARATOR, Plan, StackPlan
from trainer_agent.model.reference import refer_to
from trainer_agent.model.sites import CustomSite
from trainer_agent.model.unwrap import unwrap


class Chunk:
    """A module that is called by itself, inside the module that is watched.

    Attributes:
        prefix: what its modules' paths begin with, seen from the watched module.
        suffix: what names of its stacks end with, so that two chunks' stacks keep apart.
        stage: which stage of a pipeline it is, or None.
    """

    def __init__(
        self, module: nn.Module, prefix: str = "", suffix: str = "", stage: int | None = None
    ) -> None:
        self._module = refer_to(module)
        self.prefix, self.suffix, self.stage = prefix, suffix, stage

    @property
    def module(self) -> nn.Module:
        """The user's own, inside compilation and data-parallel wrappers."""
        return self._module()


def chunks_of(model: nn.Module, stages: Sequence[int] | None) -> tuple[Chunk, ...]:
    """The chunks of a model: of a list of modules, which is not called itself, each is one.

    `stages` has a number for each; None where there is no pipeline.
    """
    if stages is None:
        return (Chunk(unwrap(model)),)
    modules = called_modules(model)
    suffixes = [f"{STAGE_SEPARATOR}{stage}" for stage in stages] if len(modules) > 1 else [""]
    paths = {id(module): path for path, module in unwrap(model).named_modules()}
    return tuple(
        Chunk(module, f"{path}." if (path := paths[id(module)]) else "", suffix, stage)
        for module, suffix, stage in zip(modules, suffixes, stages, strict=True)
    )


def called_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """The model itself, or the modules of a list of them, without wrappers."""
    is_list = isinstance(model, nn.ModuleList) and type(model).forward is nn.Module.forward
    return tuple(unwrap(child) for child in model.children()) if is_list else (unwrap(model),)


def joined(parts: Iterable[tuple[Chunk, Plan]]) -> Plan:
    """One plan of all chunks, each with stacks of its own; the requested sites are the first's."""
    chunk_plans = list(parts)
    stacks = [_marked(stack, chunk) for chunk, plan in chunk_plans for stack in plan.stacks]
    return Plan(tuple(stacks), chunk_plans[0][1].requested)


def sites_in(chunk: Chunk, sites: Iterable[CustomSite]) -> Iterator[CustomSite]:
    """Sites of the user's own in one chunk, as `joined` names stacks and paths."""
    for site in sites:
        yield CustomSite(site.name, site.stack + chunk.suffix, _within(chunk, site.paths))


def _marked(stack: StackPlan, chunk: Chunk) -> StackPlan:
    prefix = chunk.prefix
    return replace(
        stack,
        name=stack.name + chunk.suffix,
        blocks=tuple(prefix + path for path in stack.blocks),
        attention=_within(chunk, stack.attention),
        feed_forward=_within(chunk, stack.feed_forward),
        projections=tuple(tuple(prefix + path for path in paths) for paths in stack.projections),
        attention_outputs=_within(chunk, stack.attention_outputs),
        attention_norm=_within(chunk, stack.attention_norm),
        feed_forward_norm=_within(chunk, stack.feed_forward_norm),
    )


def _within(chunk: Chunk, paths: Iterable[str | None]) -> tuple[str | None, ...]:
    return tuple(None if path is None else chunk.prefix + path for path in paths)
