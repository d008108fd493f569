"""A run's layout: which series its frames hold, in which order, declared once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property

import msgspec

from wire.errors import WireError

MAX_SERIES = 4096
MAX_VALUES = 1 << 20


class Series(msgspec.Struct, frozen=True):
    """One vector over depth.

    Attributes:
        stack: ``"encoder"``, ``"decoder"``, or ``""`` for a quantity of the complete model.
        site: where it is measured, e.g. ``"stream"`` or ``"stream_gradient"``.
        quantity: what is measured there, e.g. ``"variance"``.
        n: length of the vector; 1 for scalars such as the loss.
    """

    stack: str
    site: str
    quantity: str
    n: int

    @property
    def key(self) -> str:
        """``stack/site/quantity``, the series' name everywhere outside the frame."""
        return f"{self.stack}/{self.site}/{self.quantity}"


# Seconds from the end of a step to the end of the last step of its frame. First in the layouts
# of frames that hold several steps, and in no other: see `wire.steps`.
AGE = Series("", "step", "age", 1)


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The ordered series of a frame. Content-addressed: equal layouts have equal `hash`."""

    series: tuple[Series, ...]

    @property
    def packs_steps(self) -> bool:
        """Whether a frame holds the scalars of several steps, each with this layout's values."""
        return self.series[:1] == (AGE,)

    @cached_property
    def size(self) -> int:
        """Number of float32 values in one frame of this layout."""
        return sum(series.n for series in self.series)

    @cached_property
    def hash(self) -> str:
        """32 hexadecimal digits that identify the layout's content."""
        # Listed, since a field added to `Series` later must not change the hash of a stored layout.
        packed = msgspec.msgpack.encode([[s.stack, s.site, s.quantity, s.n] for s in self.series])
        return hashlib.blake2b(packed, digest_size=16).hexdigest()

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each series' values lie in a frame, by series key."""
        slices: dict[str, slice] = {}
        start = 0
        for series in self.series:
            slices[series.key] = slice(start, start + series.n)
            start += series.n
        return slices

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series)

    def validate(self) -> Layout:
        """Return the layout itself.

        Raises:
            WireError: if it is empty, too large, or names a series twice.
        """
        if not 1 <= len(self.series) <= MAX_SERIES:
            raise WireError(
                f"a layout holds 1 to {MAX_SERIES} series, not {len(self.series)}",
                field="layout.series",
                fix="declare the series that the frames carry",
            )
        for index, series in enumerate(self.series):
            if not 1 <= series.n <= MAX_VALUES:
                raise WireError(
                    f"series {series.key!r} has length {series.n}",
                    field=f"layout.series[{index}].n",
                    fix=f"give it a length of 1 to {MAX_VALUES}",
                )
        if self.packs_steps and any(series.stack or series.n != 1 for series in self.series):
            raise WireError(
                "a layout that packs steps holds a vector over depth",
                field="layout.series",
                fix=f"leave {AGE.key!r} out of the layout of sampled steps",
            )
        if len(self.slices) != len(self.series):
            raise WireError(
                "two series have the same stack, site and quantity",
                field="layout.series",
                fix="name each series once",
            )
        if self.size > MAX_VALUES:
            raise WireError(
                f"a frame of this layout would hold {self.size} values",
                field="layout.series",
                fix=f"keep a frame within {MAX_VALUES} values",
            )
        return self
