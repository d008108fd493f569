"""What is measured where: the places of a model, their rows on the device, their series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from wire import Layout, Series

STREAM_QUANTITIES = ("mean", "variance", "correlation", "nonfinite")
LOGIT_QUANTITIES = ("max", "variance", "entropy")
OWN_SCALARS = ("loss", "learning_rate", "gradient_norm")


@dataclass(frozen=True, slots=True)
class StackPlan:
    """One column of blocks.

    Attributes:
        name: ``"encoder"`` or ``"decoder"``.
        blocks: module paths in the order the model calls them.
        attention, feed_forward: per block, path of the module whose output is the branch's
            contribution to the stream, or None where it is not known.
        projections: per block, paths of the modules that make queries, keys and values, where
            the attention call lies between them and the module in `attention`; else ().
    """

    name: str
    blocks: tuple[str, ...]
    attention: tuple[str | None, ...]
    feed_forward: tuple[str | None, ...]
    projections: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of one site of one stack: `first` to `first + n`, excluded."""

    stack: str
    site: str
    first: int
    n: int

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is published of this site."""
        if self.site == "attention_logits":
            return LOGIT_QUANTITIES
        return STREAM_QUANTITIES if self.site.startswith("stream") else ("variance",)


@dataclass(frozen=True)
class Plan:
    """The places of a whole model."""

    stacks: tuple[StackPlan, ...]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Sites measured by `moment_sums`, in the order of their rows."""
        return tuple(_number(self.stacks, _SITES))

    @cached_property
    def logit_places(self) -> tuple[Place, ...]:
        """Sites measured on the attention logits, in the order of their rows."""
        return tuple(_number(self.stacks, (("attention_logits", 0),)))

    @cached_property
    def rows(self) -> int:
        """Rows of moment sums."""
        return sum(place.n for place in self.places)

    @cached_property
    def logit_rows(self) -> int:
        """Rows of logit sums."""
        return sum(place.n for place in self.logit_places)

    def row(self, stack: str, site: str, index: int) -> int:
        """The row of one place, counted among its own kind."""
        for place in (*self.places, *self.logit_places):
            if (place.stack, place.site) == (stack, site):
                return place.first + index
        raise KeyError(f"{stack}/{site}")

    def layout(self, scalars: Sequence[str]) -> Layout:
        """The series of a frame that also carries `scalars`."""
        by_stack = [
            Series(place.stack, place.site, quantity, place.n)
            for place in (*self.places, *self.logit_places)
            for quantity in place.quantities
        ]
        whole = [Series("", name, "value", 1) for name in scalars]
        return Layout((*by_stack, *whole, Series("", "agent", "overhead", 1)))


# Site and how many rows it has beyond the number of blocks.
_SITES = (("stream", 1), ("stream_gradient", 1), ("attention", 0), ("feed_forward", 0))


def _number(stacks: Sequence[StackPlan], sites: Sequence[tuple[str, int]]) -> Iterator[Place]:
    first = 0
    for stack in stacks:
        for site, beyond in sites:
            n = len(stack.blocks) + beyond
            yield Place(stack.name, site, first, n)
            first += n
