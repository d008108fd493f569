"""The one error that the agent raises: at once, from `watch`."""

from __future__ import annotations


class WatchError(ValueError):
    """An argument of `watch` that cannot be used.

    Attributes:
        argument: its name.
        fix: one imperative sentence that says how to mend it.
    """

    def __init__(self, argument: str, message: str, *, fix: str) -> None:
        super().__init__(f"{argument}: {message}; {fix}")
        self.argument = argument
        self.fix = fix
