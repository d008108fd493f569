"""The error that `watch` raises, and those whose message is written for the user."""

from __future__ import annotations


class ExplainedError(RuntimeError):
    """A failure whose message is a sentence for the user: it is shown as it is."""


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
