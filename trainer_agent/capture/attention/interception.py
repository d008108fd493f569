"""Interception of attention calls while part of a forward pass runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn, overrides

from trainer_agent.capture.attention.function_mode import AttentionFunctionMode, Observe, Separate
from trainer_agent.capture.attention.patch_points import PatchPoint, innermost, patch_points


class AttentionInterception:
    """Shows `observe` attention calls: a torch function mode sees some, the others are patched.

    While it is off nothing of it is left. It turns itself off around functions that torch
    compiles, so that they are compiled, and found again, as without it.

    `charge` is called with the seconds that it was on less those inside torch's calls: what it
    takes torch to ask the mode about each.

    Attributes:
        is_on: whether it is.
    """

    def __init__(
        self,
        observe: Observe,
        charge: Callable[[float], None],
        separate: Separate | None = None,
    ) -> None:
        self._observe, self._charge = observe, charge
        self._mode = AttentionFunctionMode(observe, separate)
        self._patches: list[tuple[PatchPoint, Any]] = []
        self.is_on, self._started = False, 0.0

    def find_patch_points(self, model: nn.Module) -> None:
        """Find the functions that must be patched; takes up to 20 ms."""
        self._patches = [(point, self._wrapper(point)) for point in patch_points(model)]

    def forget(self) -> None:
        """Hold no function to patch any longer: it may stand in a module of the model's."""
        if not self.is_on:
            self._patches = []

    def start(self) -> None:
        """Intercept from here on."""
        if self.is_on:
            return
        self._started = time.perf_counter()
        for point, wrapper in self._patches:
            point.swap(point.value, wrapper)
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.is_on = True

    def stop(self) -> None:
        """Intercept nothing from here on."""
        if self.is_on:
            self.is_on = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            for point, wrapper in self._patches:
                point.swap(wrapper, point.value)
            self._charge(time.perf_counter() - self._started - self._mode.take_calls_s())

    def _wrapper(self, point: PatchPoint) -> Any:
        function = point.function

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self._is_innermost():
                return function(*args, **kwargs)
            return self._call(point, args, kwargs)

        # A job that compiles the wrapper compiles the function itself.
        wrapper._torchdynamo_orig_callable = innermost(function)  # type: ignore[attr-defined]
        wrapper._torchdynamo_wrapper_id = id(wrapper)  # type: ignore[attr-defined]
        return staticmethod(wrapper) if isinstance(point.value, staticmethod) else wrapper

    def _call(self, point: PatchPoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, then observe, so that what the mode sees of the call itself comes first.

        Where the call raises, interception stays off until it is started again.
        """
        if point.hides_mode:
            self.stop()
        result = point.function(*args, **kwargs)
        if not point.hides_mode and not self._is_innermost():
            return result
        self.stop()
        if point.sample is not None:
            self._observe(partial(point.sample, *args, **kwargs))
        self.start()
        return result

    def _is_innermost(self) -> bool:
        # Not in another thread, nor where the model has entered a mode of its own since: the modes
        # must be left in the reverse order.
        return self.is_on and _innermost_mode() is self._mode


_innermost_mode: Callable[[], Any] = overrides._get_current_function_mode
