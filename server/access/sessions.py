"""The browser's login cookie: when it was issued, signed; nothing to look up."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from server.migration import make_folder
from server.settings import Settings

COOKIE = "evenkeel_session"
LIFETIME_S = 30 * 24 * 3600


def issue(secret: bytes, now: float) -> str:
    """A cookie's value: ``<issued>.<nonce>.<signature>``."""
    payload = f"{int(now)}.{secrets.token_hex(8)}"
    return f"{payload}.{_signature(secret, payload)}"


def is_valid(secret: bytes, cookie: str, now: float) -> bool:
    """Whether this server signed the cookie, and not too long ago."""
    payload, _, signature = cookie.rpartition(".")
    if not hmac.compare_digest(_signature(secret, payload).encode(), signature.encode()):
        return False
    return 0 <= now - int(payload.partition(".")[0]) < LIFETIME_S


def secret_of(settings: Settings) -> bytes:
    """The signing secret: the one given, or a random one kept in the data folder.

    Raises:
        StartError: if the data folder cannot be written.
    """
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    path = settings.data_dir / "cookie-secret"
    make_folder(settings.data_dir)
    _create_once(path)
    return path.read_bytes()


def _create_once(path: Path) -> None:
    """Write a fresh secret unless there is one; two starts at once keep the same one."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _signature(secret: bytes, payload: str) -> str:
    return hmac.new(secret, payload.encode(), hashlib.sha256).hexdigest()
