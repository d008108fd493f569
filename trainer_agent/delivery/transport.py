"""The way to the server, as a small protocol, and how it can fail."""

from __future__ import annotations

from typing import Protocol

from wire import FrameBatch, FramesReceipt, RunDeclaration, RunEnd, RunReceipt, SpecRevision


class Unreachable(Exception):
    """The server gave no usable answer; the same request may work later.

    Attributes:
        retry_after_s: the server's own wish, or None.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The server understood the request and will not take it as it is.

    Attributes:
        status: HTTP status, 400 to 499.
        field: the offending field, e.g. ``frames[3].values``.
        message: what is wrong with it.
        fix: how to mend it.
    """

    def __init__(self, status: int, *, field: str, message: str, fix: str) -> None:
        super().__init__(f"{message} (field {field or 'unnamed'}, status {status}); {fix}")
        self.status = status
        self.field = field
        self.message = message
        self.fix = fix


class Transport(Protocol):
    """Carries messages of one run. Called from the sender thread alone.

    Every method raises `Unreachable` or `Refused` and nothing else.
    """

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        """Announce the run, or a further layout of it."""
        ...

    def describe(self, run_id: str, revision: SpecRevision) -> None:
        """Send the model's description at a step."""
        ...

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        """Send frames; an empty batch asks for the durable mark."""
        ...

    def end(self, run_id: str, end: RunEnd) -> None:
        """Say that the run is over."""
        ...

    def close(self) -> None:
        """Give back the connection."""
        ...
