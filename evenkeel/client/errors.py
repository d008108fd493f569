"""The one error that the client raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import StartError


class ClientError(RuntimeError):
    """What the server refused, or cannot be found, and the fix."""


@contextmanager
def clear_errors() -> Iterator[None]:
    """Raise what the API's reader found as `ClientError`."""
    try:
        yield
    except StartError as error:
        raise ClientError(str(error)) from None
