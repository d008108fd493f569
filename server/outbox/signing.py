"""Signatures of webhooks, in the form of the Standard Webhooks specification.

A receiver recomputes the signature over id, timestamp and body, refuses a timestamp that is more
than some minutes old, and remembers the ids of those minutes: then nothing can be sent twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from server.errors import StartError

PREFIX = "whsec_"
SHORTEST_KEY = 24  # bytes, as the specification asks


class Signer:
    """Signs with every secret, so that a receiver may change from one to the next."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """Raise `StartError` for a secret that is too short, or not in base64."""
        self._keys = [_key_of(secret) for secret in secrets]

    def headers(self, message_id: str, body: bytes, now: float) -> dict[str, str]:
        """The headers of one attempt: its id and time, and where there are secrets, signatures."""
        timestamp = str(int(now))
        headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
        if self._keys:
            content = f"{message_id}.{timestamp}.".encode() + body
            headers["webhook-signature"] = " ".join(signature(key, content) for key in self._keys)
        return headers


def signature(key: bytes, content: bytes) -> str:
    """HMAC-SHA256 of the signed content, with the version of the scheme in front."""
    digest = hmac.digest(key, content, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < SHORTEST_KEY:
        raise StartError(
            f"webhook_secrets: a secret is not the base64 of at least {SHORTEST_KEY} bytes; "
            "make one with `openssl rand -base64 32`"
        )
    return key
