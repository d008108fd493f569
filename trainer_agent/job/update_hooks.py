"""The moments before and after an optimizer's update, gradients computed inside it or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

Look = Callable[[Optimizer], None]


class UpdateHooks:
    """Looks at an optimizer with the gradients it updates by, and when it has updated.

    A closure given to ``step``, as Lightning and LBFGS have it, computes the gradients inside:
    there the first look follows the closure's first call, whatever else it does, clipping too.
    """

    def __init__(
        self, optimizer: Optimizer, before: Look, after: Look, *, wanted: Callable[[], bool]
    ) -> None:
        """Set the hooks; optimizers that have none to offer are never looked at.

        Args:
            optimizer: whose updates are looked at.
            before, after: the looks; they must not raise.
            wanted: whether to look, asked as a step begins.
        """
        self._before, self._after, self._wanted = before, after, wanted
        registers = [
            (getattr(optimizer, "register_step_pre_hook", None), self._step_begins),
            (getattr(optimizer, "register_step_post_hook", None), self._step_ends),
        ]
        self._handles = [register(hook) for register, hook in registers if register is not None]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _step_begins(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._wanted():
            return None
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._looking(optimizer, kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):  # the first is the optimizer
            return (args[0], self._looking(optimizer, args[1]), *args[2:]), kwargs
        self._before(optimizer)
        return None

    def _looking(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure, with a look after its first call."""
        looks = [self._before]

        def run(*args: Any, **kwargs: Any) -> Any:
            found = closure(*args, **kwargs)
            while looks:
                looks.pop()(optimizer)
            return found

        return run

    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if self._wanted():
            self._after(optimizer)
