"""The time in which attention calls are looked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn, overrides

from trainer_agent.capture.attention.function_mode import AttentionView, Observe
from trainer_agent.capture.attention.patch_points import Door, doors_of, innermost


class AttentionWindow:
    """While open, a torch mode looks on, and functions that it cannot see have stand-ins.

    While closed nothing of it is left. It closes around functions that torch compiles, so that
    they are compiled, and found again, as without it.

    `charge` is told the seconds that it was open less those inside torch's calls: what it takes
    torch to ask the mode about each.

    Attributes:
        is_open: whether it is.
    """

    def __init__(self, observe: Observe, charge: Callable[[float], None]) -> None:
        self._observe, self._charge = observe, charge
        self._mode = AttentionView(observe)
        self._stand_ins: list[tuple[Door, Any]] = []
        self.is_open, self._opened = False, 0.0

    def look_around(self, model: nn.Module) -> None:
        """Find the functions that need a stand-in; takes up to 20 ms."""
        self._stand_ins = [(door, self._stand_in(door)) for door in doors_of(model)]

    def open(self) -> None:
        """Look from here on, if it did not."""
        if self.is_open:
            return
        self._opened, self._mode.calls_s = time.perf_counter(), 0.0
        for door, stand_in in self._stand_ins:
            door.swap(door.found, stand_in)
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.is_open = True

    def close(self) -> None:
        """Look no longer, if it did."""
        if self.is_open:
            self.is_open = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            for door, stand_in in self._stand_ins:
                door.swap(stand_in, door.found)
            self._charge(time.perf_counter() - self._opened - self._mode.calls_s)

    def _stand_in(self, door: Door) -> Any:
        function = door.function

        @wraps(function)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self._is_on_top():
                return function(*args, **kwargs)
            return self._pass(door, args, kwargs)

        # Whoever compiles the stand-in compiles the function itself.
        stand_in._torchdynamo_orig_callable = innermost(function)  # type: ignore[attr-defined]
        stand_in._torchdynamo_wrapper_id = id(stand_in)  # type: ignore[attr-defined]
        return staticmethod(stand_in) if isinstance(door.found, staticmethod) else stand_in

    def _pass(self, door: Door, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, then look, so that what the mode has seen of the call itself comes first.

        Where the call raises nobody looks on until the next window.
        """
        if door.unseen:
            self.close()
        result = door.function(*args, **kwargs)
        if not door.unseen and not self._is_on_top():
            return result
        self.close()
        if door.sample is not None:
            self._observe(partial(door.sample, *args, **kwargs))
        self.open()
        return result

    def _is_on_top(self) -> bool:
        # Not so in another thread, and where the model has a mode of its own: that one's turn.
        return self.is_open and _top_mode() is self._mode


_top_mode: Callable[[], Any] = overrides._get_current_function_mode
