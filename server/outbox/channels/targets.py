"""From a channel's URL and secrets to its target."""

from __future__ import annotations

from collections.abc import Sequence

from server.errors import InvalidField, StartError
from server.outbox.signing import Signer
from server.outbox.targets import Target, target_of


def target_of_channel(url: str, secrets: Sequence[str]) -> Target:
    """The target of a stored channel.

    Raises:
        StartError: if this server cannot deliver to it.
    """
    return target_of(url, Signer(secrets))


def checked_target(url: str, secrets: Sequence[str]) -> Target:
    """The target of what somebody entered.

    Raises:
        InvalidField: about `secrets` or `url`, without showing either.
    """
    try:
        signer = Signer(secrets)
    except StartError as error:
        raise InvalidField(
            _without_setting(error),
            field="secrets",
            fix="make one with `openssl rand -base64 32`, or let generate_secret make one",
        ) from error
    try:
        return target_of(url, signer)
    except StartError as error:
        raise InvalidField(
            _without_setting(error),
            field="url",
            fix="give an http(s):// URL, or one of https://github.com/caronc/apprise/wiki",
        ) from error


def _without_setting(error: StartError) -> str:
    """The message without the name of the setting, which nobody set."""
    return str(error).partition(": ")[2]
