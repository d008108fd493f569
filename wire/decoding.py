"""Decode foreign bytes: whatever is wrong with them becomes a `WireError`."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from wire.errors import WireError

T = TypeVar("T")

# msgspec raises its own error for most bodies, ValueError for text that is not UTF-8 and for
# numbers that Python does not convert, RecursionError for nesting, TypeError for a map whose key
# cannot be one.
FAILURES = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, TypeError)


class JsonDecoder(Generic[T]):
    """Decodes JSON bodies as one kind of message."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, body: bytes) -> T:
        """The message.

        Raises:
            WireError: if the body is no such message, naming the field where one is to blame.
        """
        try:
            return self._decoder.decode(body)
        except FAILURES as error:
            name = self._kind.__name__
            raise refusal(error, f"a {name}", fix=f"send a wire.{name} as JSON") from error


class MsgpackDecoder(Generic[T]):
    """Decodes msgpack bodies as one kind of message; `what` names it in errors."""

    def __init__(self, kind: type[T], what: str, *, fix: str) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._what = what
        self._fix = fix

    def decode(self, body: bytes) -> T:
        """The message.

        Raises:
            WireError: if the body is no such message, naming the field where one is to blame.
        """
        try:
            return self._decoder.decode(body)
        except FAILURES as error:
            raise refusal(error, self._what, fix=self._fix) from error


def refusal(error: BaseException, what: str, *, fix: str) -> WireError:
    """The `WireError` for a body that could not be decoded as `what`."""
    return WireError(f"the body is not {what}: {error}", field=field_of(error), fix=fix)


def field_of(error: BaseException) -> str:
    """The dotted path that msgspec complains of, or "body"."""
    text = str(error)
    if "at `$" in text:
        return text.partition("at `$")[2].rstrip("`").lstrip(".") or "body"
    return text.partition("missing required field `")[2].partition("`")[0] or "body"
