"""Layouts that were decoded before, by their hash: what a layout holds follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from wire import Layout

MAX_SERIES = 250_000  # in all of them, some tens of megabytes


class LayoutCache:
    """The layouts that were used last, bounded by their series."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._layouts: dict[str, Layout] = {}
        self._n_series = 0

    def get(self, layout_hash: str) -> Layout | None:
        """The layout of this hash, or None where it has to be read."""
        layout = self._layouts.pop(layout_hash, None)
        if layout is not None:
            self._layouts[layout_hash] = layout  # the newest of them now
        return layout

    def put(self, layout_hash: str, layout: Layout) -> None:
        """Remember a layout; those that were not used for longest give way."""
        if self.get(layout_hash) is None:
            self._layouts[layout_hash] = layout
            self._n_series += len(layout.series)
        while self._n_series > self._max_series and len(self._layouts) > 1:
            oldest = next(iter(self._layouts))
            self._n_series -= len(self._layouts.pop(oldest).series)


def batched(values: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    """The values in tuples of at most `size`."""
    remaining = iter(values)
    while part := tuple(islice(remaining, size)):
        yield part
