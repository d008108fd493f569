"""Opaque cursors: where a page of a list ended."""

from __future__ import annotations

import base64
import binascii

import msgspec

from server.errors import InvalidField


def encode(moment: float, key: str) -> str:
    """A cursor past this (time, id); the id orders rows of the same time."""
    packed = msgspec.json.encode([moment, key])
    # Without padding, which clients would have to escape in a URL.
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(cursor: str | None) -> tuple[float, str] | None:
    """The (time, id) of a cursor.

    Raises:
        InvalidField: if it is not one of ours.
    """
    if cursor is None:
        return None
    try:
        packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(packed, type=tuple[float, str])
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise InvalidField(
            "the cursor is not one of this server's",
            field="cursor",
            fix="pass next_cursor as it was answered, or leave it out",
        ) from error
