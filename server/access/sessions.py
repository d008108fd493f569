"""The browser's login cookie: when it was issued, signed; nothing to look up."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from itsdangerous import BadSignature, TimestampSigner

from server.migration import make_folder
from server.settings import Settings

COOKIE = "evenkeel_session"
LIFETIME_S = 30 * 24 * 3600


class _Signer(TimestampSigner):
    """Signs with the server's clock in place of the system's, which tests could not move."""

    def __init__(self, secret: bytes, now: float) -> None:
        super().__init__(secret, salt=COOKIE, digest_method=hashlib.sha256)
        self._now = now

    def get_timestamp(self) -> int:
        return int(self._now)


def issue(secret: bytes, now: float) -> str:
    """A cookie's value: ``<nonce>.<issued>.<signature>``."""
    return _Signer(secret, now).sign(secrets.token_hex(8)).decode()


def is_valid(secret: bytes, cookie: str, now: float) -> bool:
    """Whether this server signed the cookie, and at most `LIFETIME_S` ago."""
    try:
        _Signer(secret, now).unsign(cookie, max_age=LIFETIME_S)
    except BadSignature:
        return False
    return True


def secret_of(settings: Settings) -> bytes:
    """The signing secret of the settings, or a random one that stays in the data folder.

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
    """Write a fresh secret unless there is one.

    A link fails where its name exists, so that of two servers that start at once both use the
    secret of the first.
    """
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
