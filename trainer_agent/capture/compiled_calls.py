"""Modules that are compiled by themselves, watched from outside of what is compiled.

A hook that says which layer it stands for would be compiled into the block's code, and torch would
compile that code once a layer instead of once, or give up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Before = Callable[[nn.Module, Any, Any], None]
After = Callable[[nn.Module, Any, Any], None]


class CompiledCall:
    """Stands in the place of the compiled call that ``module.compile()`` has set."""

    def __init__(self, module: nn.Module, before: Before, after: After) -> None:
        self._module, self._before, self._after = module, before, after
        self._call: Callable[..., Any] = vars(module)[_SLOT]
        vars(module)[_SLOT] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Look, call what is compiled, look."""
        self._before(self._module, args, kwargs)
        output = self._call(*args, **kwargs)
        self._after(self._module, args, output)
        return output

    def remove(self) -> None:
        """Put the compiled call back, unless somebody has put another there."""
        if vars(self._module).get(_SLOT) is self:
            vars(self._module)[_SLOT] = self._call


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by itself, in place or as a module around it."""
    return is_compiled_in_place(module) or type(module).__name__ == "OptimizedModule"


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called; its own hooks are compiled with it."""
    return vars(module).get(_SLOT) is not None


_SLOT = "_compiled_call_impl"
