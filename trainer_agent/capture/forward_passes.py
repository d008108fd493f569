"""Which tensors of a forward pass have been counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Passes:
    """The forward passes of one stack.

    Attributes:
        number: of the running one.
        last_block: index of the block that was entered last in it, -1 before the first.
        first_block: index of the one that began it.
        counted: in which a row was last counted.
        recomputed: in which a block was last run again without having been counted before.
        calls, recalls: by the first layer of a block that several layers share, how often it was
            called in this pass, and how often a checkpoint has run it again.
    """

    number: int = 0
    last_block: int = -1
    first_block: int = 0
    counted: dict[tuple[str, int], int] = field(default_factory=dict)
    recomputed: dict[int, int] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)
    recalls: dict[int, int] = field(default_factory=dict)


class ForwardPasses:
    """Numbers the forward passes of each stack, and of each chunk outside its stacks.

    A name is that of a stack, or the chunk's stage suffix.
    """

    def __init__(self) -> None:
        self._passes: defaultdict[str, _Passes] = defaultdict(_Passes)

    def begin(self, name: str) -> None:
        """A forward pass begins: everything is to be counted anew."""
        self._passes[name].number += 1

    def expect(self, name: str) -> None:
        """The next block that is entered, whichever it is, begins a pass."""
        self._passes[name].last_block = -1
        self._passes[name].calls.clear()
        self._passes[name].recalls.clear()

    def is_called_out(self, name: str, layers: Sequence[int]) -> bool:
        """Whether this pass has called the block that layers share as often as there are layers."""
        return self._passes[name].calls.get(layers[0], 0) == len(layers)

    def shared_layer(self, name: str, layers: Sequence[int], *, again: bool) -> int:
        """Which of the layers that share a block its next call is; `again`: in a recomputation.

        A checkpoint runs the calls again from the last to the first. A call more than there are
        layers begins another pass.
        """
        passes = self._passes[name]
        first, n_calls = layers[0], passes.calls.get(layers[0], 0)
        if again:
            n_again = passes.recalls.get(first, 0)
            passes.recalls[first] = n_again + 1
            return layers[(n_calls - 1 - n_again) % max(n_calls, 1)]
        if self.is_called_out(name, layers):
            self.expect(name)
            n_calls = 0
        passes.calls[first] = n_calls + 1
        return layers[n_calls]

    def begins(self, name: str, index: int) -> bool:
        """Whether a block that is entered begins a pass: passes may skip blocks, the first too."""
        return index == 0 or index <= self._passes[name].last_block or self._is_fresh(name)

    def enter(self, name: str, index: int) -> None:
        """A block is entered."""
        self._passes[name].last_block = index

    def began(self, name: str, index: int) -> None:
        """A block has begun the running pass."""
        self._passes[name].first_block = index

    def has_begun(self, name: str, index: int) -> bool:
        """Whether it was this block that began the running pass."""
        return self._passes[name].first_block == index

    def _is_fresh(self, name: str) -> bool:
        return self._passes[name].last_block < 0

    def adopt(self, other: ForwardPasses, names: Mapping[str, str]) -> None:
        """Take over what another one has counted, by the names that it has here."""
        for name, passes in other._passes.items():
            if name in names:
                self._passes[names[name]] = passes

    def first_time(self, name: str, site: str, index: int) -> bool:
        """Whether this pass has not counted the row yet; a checkpoint's recomputation has."""
        passes = self._passes[name]
        if passes.counted.get((site, index)) == passes.number:
            return False
        # The number, not a flag: so a new pass has nothing to reset.
        passes.counted[site, index] = passes.number
        return True

    def recompute(self, name: str, index: int, *, same_pass: bool) -> None:
        """A block runs again inside a backward pass.

        A reentrant checkpoint runs its blocks without gradients first, so that they are counted
        here: each time that is not of the `same_pass` as the last is another forward pass's.
        """
        passes = self._passes[name]
        if passes.recomputed.get(index) != passes.number:
            if passes.counted.get(("stream", index + 1)) != passes.number:
                passes.recomputed[index] = passes.number
        elif not same_pass:
            streams = {index + 1, *([0] if index == passes.first_block else [])}
            for site, at in tuple(passes.counted):
                if at in streams if site == "stream" else at == index:
                    del passes.counted[site, at]
