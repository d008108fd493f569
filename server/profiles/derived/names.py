"""Which series are derived, how long they are, and which measured series they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dslm.ahead import QUANTITIES, Quantity

EDGES = ("", "_low", "_high")
CURVES = tuple(name for name, quantity in QUANTITIES.items() if quantity.direction)
SITES = ("innovation", "ahead", "reference", "alignment")


@dataclass(frozen=True, slots=True)
class DerivedSeries:
    """One series that is computed when it is read.

    Attributes:
        stack, site, quantity: its key's parts; `site` is one of `SITES`.
        n: its length.
        needs: keys of measured series that it is computed from; some may not be declared.
    """

    stack: str
    site: str
    quantity: str
    n: int
    needs: tuple[str, ...]

    @property
    def key(self) -> str:
        """``stack/site/quantity``."""
        return f"{self.stack}/{self.site}/{self.quantity}"

    @property
    def followed(self) -> str:
        """The quantity it is about, without the name of a band's edge."""
        return self.quantity.removesuffix("_low").removesuffix("_high")


def derived_series(declared: Mapping[str, int]) -> dict[str, DerivedSeries]:
    """Every derived series of a run, by key; `declared` holds measured lengths by key.

    A key that the run measures itself stays what it measures.
    """
    stacks = [
        key.removesuffix("/stream/variance") for key in declared if key.endswith("/stream/variance")
    ]
    series = {
        each.key: each
        for stack in stacks
        for each in (*_ahead(stack, declared), *_alignments(stack, declared))
    }
    return {key: each for key, each in series.items() if key not in declared}


def raw_key(stack: str, quantity: Quantity) -> str:
    """The measured series that a quantity follows."""
    return f"{stack}/{quantity.site}/{quantity.quantity}"


def _ahead(stack: str, declared: Mapping[str, int]) -> Iterator[DerivedSeries]:
    for name, quantity in QUANTITIES.items():
        key = raw_key(stack, quantity)
        if key not in declared:
            continue
        n = declared[key]
        for edge in EDGES:
            yield DerivedSeries(stack, "innovation", name + edge, quantity.width(n), (key,))
            if name in CURVES:
                yield DerivedSeries(stack, "ahead", name + edge, n, (key,))
        if name in CURVES:
            yield DerivedSeries(stack, "reference", name, n, (key,))


def _alignments(stack: str, declared: Mapping[str, int]) -> Iterator[DerivedSeries]:
    keys = (
        f"{stack}/stream/variance",
        f"{stack}/attention/variance",
        f"{stack}/feed_forward/variance",
        f"{stack}/attention_norm_input/variance",
        f"{stack}/feed_forward_norm_input/variance",
    )
    needs = tuple(key for key in keys if key in declared)
    n = declared[keys[0]] - 1
    branches = [
        name for name in ("attention", "feed_forward") if f"{stack}/{name}/variance" in needs
    ]
    for name in (*branches, "block"):
        yield DerivedSeries(stack, "alignment", name, n, needs)
