"""What is measured where: the places of a model, their rows on the device, their series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from trainer_agent.model.blocks import holds
from trainer_agent.model.sites import DEFAULT_SITES, QUANTITIES, CustomSite, RequestedSites
from wire import Layout, Series

STREAM_QUANTITIES = ("mean", "variance", "correlation", "nonfinite")
BRANCHES = ("attention", "feed_forward")
BRANCH_QUANTITIES = ("variance", "bits")
LOGIT_QUANTITIES = ("max", "variance", "entropy")
OWN_SCALARS = ("loss", "learning_rate", "gradient_norm")
# Stands in a stack's name before the number of its stage, where a process holds several.
STAGE_SEPARATOR = "@"

Kind = Literal["tensor", "logits", "head", "parameters", "log_z"]


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a stream passes a module: at its first tensor argument, or at its output."""

    module: str
    is_input: bool


@dataclass(frozen=True, slots=True)
class StackPlan:
    """One column of blocks.

    Attributes:
        name: ``"encoder"`` or ``"decoder"``; ``"decoder@2"`` where a process holds several stages
            of a pipeline, and this is what stage 2 has of it.
        blocks: module paths in the order the model calls them; a block that a pass calls several
            times stands here as often, a layer a call.
        attention, feed_forward: per block, path of the module whose output is the branch's
            contribution to the stream, or None where it is not known.
        attention_factors, feed_forward_factors: per block, the number by which that output is
            multiplied before it is added; empty where all are 1.
        projections: per block, paths of the modules that make queries, keys and values, where
            the attention call lies between them and the module in `attention_outputs`; else ().
        attention_outputs: per block, path of attention's output projection, or None.
        attention_norm, feed_forward_norm: per block, path of the branch's norm, or None.
        n_heads: attention heads of a block, 0 where not known or not the same in all.
        token_axis: axis of the stream that counts a sequence's tokens, None where no forward pass
            has told.
        edges: of blocks that are no modules of their own, where the stream enters each of them,
            and where it leaves the last; empty for blocks that are called.
    """

    name: str
    blocks: tuple[str, ...]
    attention: tuple[str | None, ...]
    feed_forward: tuple[str | None, ...]
    attention_factors: tuple[float, ...] = ()
    feed_forward_factors: tuple[float, ...] = ()
    projections: tuple[tuple[str, ...], ...] = ()
    attention_outputs: tuple[str | None, ...] = ()
    attention_norm: tuple[str | None, ...] = ()
    feed_forward_norm: tuple[str | None, ...] = ()
    n_heads: int = 0
    token_axis: int | None = None
    edges: tuple[Edge, ...] = ()

    def ends(self, index: int) -> tuple[Edge, Edge]:
        """Where the stream enters a block, and where it leaves it."""
        return ends_of(self.blocks, self.edges, index)


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of one site: `first` to `first + n`, excluded, among the rows of its kind.

    Attributes:
        quantities: what is published of this site.
        head: which attention head, where the kind is ``"head"``.
    """

    stack: str
    site: str
    first: int
    n: int
    quantities: tuple[str, ...] = ()
    kind: Kind = "tensor"
    head: int = 0


@dataclass(frozen=True)
class Plan:
    """The places of a whole model."""

    stacks: tuple[StackPlan, ...]
    requested: RequestedSites = DEFAULT_SITES

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Over the paths of all blocks, and asked for in every sampled step.
        return hash(self.stacks)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Sites measured by `moment_sums`, in the order of their rows."""
        sites = list(_SITES)
        if "norm_inputs" in self.requested.sites:
            sites += [(site, 0, MOMENTS) for site in NORM_INPUTS]
        places = list(_number(self.stacks, sites, self.requested.quantities))
        first = sum(place.n for place in places)
        quantities = _together(MOMENTS, self.requested.quantities)
        for custom in (site for site in self.requested.custom if site.paths):
            places.append(Place(custom.stack, custom.name, first, len(custom.paths), quantities))
            first += len(custom.paths)
        return tuple(places)

    @cached_property
    def logit_places(self) -> tuple[Place, ...]:
        """Sites measured on the attention logits, in the order of their rows."""
        places, first = [], 0
        for stack in self.stacks:
            n = len(stack.blocks)
            site = "attention_logits"
            places.append(Place(stack.name, site, first, n, LOGIT_QUANTITIES, "logits"))
            first += n
        return tuple(places)

    @cached_property
    def head_places(self) -> tuple[Place, ...]:
        """The same of each head, where that is requested and the heads are known."""
        if "attention_heads" not in self.requested.sites:
            return ()
        return tuple(
            Place(
                of.stack, f"attention_head_{head}", of.first, of.n, LOGIT_QUANTITIES, "head", head
            )
            for stack, of in zip(self.stacks, self.logit_places, strict=True)
            for head in range(stack.n_heads)
        )

    @cached_property
    def parameter_places(self) -> tuple[Place, ...]:
        """Parameters and their updates by block, then of the whole model: the last row is the rest.

        The rows of all these sites are the same ones.
        """
        places = []
        for site, option, quantities, by_default in _PARAMETERS:
            if option in self.requested.sites or (by_default and self.requested.parameters):
                for of in self.logit_places:
                    places.append(Place(of.stack, site, of.first, of.n, quantities, "parameters"))
                places.append(Place("", site, 0, 1, quantities, "parameters"))
        return tuple(places)

    @cached_property
    def log_z_places(self) -> tuple[Place, ...]:
        """The final logits, where they are requested."""
        requested = "log_z" in self.requested.sites
        return (Place("", "log_z", 0, 1, ("mean", "mean_square"), "log_z"),) if requested else ()

    @cached_property
    def rows(self) -> int:
        """Rows of moment sums."""
        return sum(place.n for place in self.places)

    @cached_property
    def logit_rows(self) -> int:
        """Rows of logit sums."""
        return sum(place.n for place in self.logit_places)

    @cached_property
    def heads(self) -> int:
        """Rows of each head's logit sums that stand in for one row of logit sums."""
        return max((place.head + 1 for place in self.head_places), default=0)

    @cached_property
    def parameter_rows(self) -> int:
        """Rows of sums over parameters: one a block, one for what lies in no block."""
        return self.logit_rows + 1 if self.parameter_places else 0

    @cached_property
    def counted_rows(self) -> tuple[int, ...]:
        """By row of parameters, the row that counts them: layers that share a block share it."""
        blocks = [block for stack in self.stacks for block in stack.blocks]
        last = {block: row for row, block in enumerate(blocks)}
        # Blocks that other processes hold have no path.
        rows = (last[block] if block else row for row, block in enumerate(blocks))
        return (*rows, self.logit_rows)

    @cached_property
    def series(self) -> tuple[tuple[Place, str], ...]:
        """Every place with every quantity of it, as a frame lists them."""
        places = (
            *self.places,
            *self.logit_places,
            *self.head_places,
            *self.parameter_places,
            *self.log_z_places,
        )
        return tuple((place, quantity) for place in places for quantity in place.quantities)

    def row(self, stack: str, site: str, index: int) -> int:
        """The row of one place, counted among its own kind."""
        for place in (*self.places, *self.logit_places):
            if (place.stack, place.site) == (stack, site):
                return place.first + index
        raise KeyError(f"{stack}/{site}")

    def layout(self, scalars: Sequence[str]) -> Layout:
        """The series of a frame that also carries `scalars`."""
        measured = [
            Series(place.stack, place.site, quantity, place.n) for place, quantity in self.series
        ]
        scalar_series = [Series("", name, "value", 1) for name in scalars]
        return Layout((*measured, *scalar_series, Series("", "agent", "overhead", 1)))


MOMENTS = ("mean", "variance")
NORM_INPUTS = ("attention_norm_input", "feed_forward_norm_input")
# Site, how many rows it has beyond the number of blocks, and what is published of it.
_Site = tuple[str, int, tuple[str, ...]]
_SITES: tuple[_Site, ...] = (
    ("stream", 1, STREAM_QUANTITIES),
    ("stream_gradient", 1, STREAM_QUANTITIES),
    *((site, 0, BRANCH_QUANTITIES) for site in BRANCHES),
)
# Site, the option that brings it, its quantities, and whether a known optimizer brings it too.
_PARAMETERS = (
    ("weights", "weights", ("rms",), True),
    ("updates", "updates", ("ratio",), True),
    ("weight_gradients", "weights", ("rms",), False),
    ("updates", "updates", ("second_moment",), False),
)


@dataclass(frozen=True, slots=True)
class RowsKept:
    """Where rows of one plan stand in another one that holds the same blocks.

    Attributes:
        stacks: names there, by the names here of stacks, and of what lies outside of them.
        moments, logits, parameters: rows there, by the rows of each kind here.
    """

    stacks: dict[str, str]
    moments: dict[int, int]
    logits: dict[int, int]
    parameters: dict[int, int]


def rows_kept(before: Plan, after: Plan) -> RowsKept:
    """The rows of stacks with the same blocks in both plans, whatever their names."""
    names = {stack.blocks: stack.name for stack in after.stacks}
    stacks = {s.name: names[s.blocks] for s in before.stacks if s.blocks in names}
    # What lies in a chunk and outside its stacks goes by the chunk's suffix.
    stacks |= {suffix: suffix for suffix in ("", *(stage_suffix(s.name) for s in before.stacks))}
    logits = _rows_between(before.logit_places, after.logit_places, stacks)
    # The last row of parameters holds what lies in no block.
    outside = {before.logit_rows: after.logit_rows}
    return RowsKept(
        stacks=stacks,
        moments=_rows_between(before.places, after.places, stacks),
        logits=logits,
        parameters=logits | outside if before.parameter_rows and after.parameter_rows else {},
    )


def _rows_between(
    before: Sequence[Place], after: Sequence[Place], stacks: dict[str, str]
) -> dict[int, int]:
    places = {(place.stack, place.site): place for place in after}
    rows: dict[int, int] = {}
    for place in (place for place in before if place.stack in stacks):
        there = places.get((stacks[place.stack], place.site))
        if there is not None and there.n == place.n:
            rows |= {place.first + i: there.first + i for i in range(place.n)}
    return rows


def settled(site: CustomSite, stacks: Sequence[StackPlan]) -> CustomSite:
    """A site of the user's own by the stack that holds its modules, in the order of its blocks.

    The model's forward pass may have named it otherwise than its structure did.
    """
    for stack in stacks if site.stack != stage_suffix(site.stack) else ():
        paths = tuple(_inside(block, site.paths) for block in stack.blocks)
        if any(path is not None for path in paths):
            return CustomSite(site.name, stack.name, paths)
    return site


def _inside(block: str, paths: Sequence[str | None]) -> str | None:
    inside = (path for path in paths if path is not None and holds(block, path))
    return next(inside, None)


def ends_of(blocks: Sequence[str], edges: Sequence[Edge], index: int) -> tuple[Edge, Edge]:
    """Where the stream enters a block and leaves it; `edges` as in `StackPlan`."""
    if edges:
        return edges[index], edges[index + 1]
    return Edge(blocks[index], is_input=True), Edge(blocks[index], is_input=False)


def stage_suffix(stack: str) -> str:
    """The end of a stack's name that tells its chunk: ``"@2"`` of ``"decoder@2"``, "" of most.

    What lies in a chunk and in none of its stacks goes by the suffix alone.
    """
    _, separator, stage = stack.partition(STAGE_SEPARATOR)
    return separator + stage


def _number(
    stacks: Sequence[StackPlan], sites: Sequence[_Site], more: tuple[str, ...]
) -> Iterator[Place]:
    first = 0
    for stack in stacks:
        for site, beyond, quantities in sites:
            n = len(stack.blocks) + beyond
            yield Place(stack.name, site, first, n, _together(quantities, more))
            first += n


def _together(default: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return (
        *default,
        *(quantity for quantity in QUANTITIES if quantity in more and quantity not in default),
    )
