"""The hooks that are set on a model, by the place that each serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.hooks import CompiledCall

Handle = RemovableHandle | CompiledCall


class HookHandles:
    """Removes hooks for good, or parks them while steps are not sampled.

    A place reads ``"decoder/attention[3]"``: stack, site, index.
    """

    def __init__(self) -> None:
        self._handles: dict[str, Sequence[Handle]] = {}
        self._parked: list[tuple[RemovableHandle, Any]] = []

    def add(self, place: str, *handles: Handle) -> None:
        """Hold the handles of a place."""
        self._handles[place] = handles

    def remove_if(self, condemns: Callable[[str], bool]) -> None:
        """Remove the hooks of the places for which `condemns` is true."""
        for place in [place for place in self._handles if condemns(place)]:
            for handle in self._handles.pop(place):
                handle.remove()

    def clear(self) -> None:
        """Remove all hooks."""
        self.unpark()
        self.remove_if(lambda _place: True)

    def park(self) -> None:
        """Take the hooks off their modules: torch calls a module without hooks the short way."""
        for handle in chain.from_iterable(self._handles.values()):
            # Through torch's own dictionaries: what `remove` removes has to be registered anew, and
            # then has another handle.
            if isinstance(handle, RemovableHandle):
                hooks = handle.hooks_dict_ref()
                if hooks is not None and handle.id in hooks:
                    self._parked.append((handle, hooks.pop(handle.id)))

    def unpark(self) -> None:
        """Put parked hooks back."""
        parked, self._parked = self._parked, []
        for handle, hook in parked:
            hooks = handle.hooks_dict_ref()
            if hooks is not None:  # else the module is gone
                hooks[handle.id] = hook
