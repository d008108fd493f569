"""Hooks that wait for the gradient of a tensor."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.hooks import RemovableHandle

Tell = Callable[[Tensor], None]


def on_gradient(x: Tensor, tell: Tell) -> RemovableHandle:
    """Have `tell` called with the gradient of `x`, in every backward pass that reaches it."""
    handle: RemovableHandle = x.register_hook(tell)  # type: ignore[no-untyped-call]
    return handle


class GradientHooks:
    """Sets hooks that tell of one backward pass.

    A hook goes with its tensor, but a pipeline receives into the same tensors in every step:
    there each step would leave one more.
    """

    def __init__(self) -> None:
        self._on_leaves: dict[tuple[str, int, int], RemovableHandle] = {}

    def listen(self, stack: str, index: int, x: Tensor, tell: Tell) -> None:
        """Have `tell` called with the gradient of the stream `x` at a place."""
        if not x.is_leaf:
            on_gradient(x, tell)
            return
        place = stack, index, id(x)

        def once(g: Tensor) -> None:
            self._forget(place)
            tell(g)

        self._forget(place)
        self._on_leaves[place] = on_gradient(x, once)

    def _forget(self, place: tuple[str, int, int]) -> None:
        held = self._on_leaves.pop(place, None)
        if held is not None:
            held.remove()
