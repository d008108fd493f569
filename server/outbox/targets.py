"""Send a message: its JSON to a webhook over HTTP, or its text (mail, chat) through apprise."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit

import httpx

from server.errors import StartError
from server.outbox.message import Message
from server.outbox.signing import Signer

TIMEOUT_S = 10.0  # of one attempt, from connecting to the answer
HTTP_SCHEMES = {"http": "http", "https": "https", "json": "http", "jsons": "https"}
NOTICES = {"critical": "failure", "warning": "warning", "info": "info"}
# These answers speak of the target, not of the message: any other would get the same now.
AWAY = frozenset({408, 425, 429, 502, 503, 504})
LONGEST_RETRY_AFTER_S = 3600.0
SECRET_LENGTH = 5  # a shorter part of a URL is no secret, and occurs in any text
REASON_LENGTH = 200  # characters of what a target says of a failure

Failure = Literal["away", "failed", "refused"]
TargetKind = Literal["webhook", "apprise"]


class DeliveryError(Exception):
    """A target did not take a message.

    Attributes:
        failure: ``"away"``, the target takes nothing now; ``"failed"``, it failed at this message
            or at all; ``"refused"``, it would refuse this message again.
        retry_after_s: how long the target asks to be left alone.
    """

    def __init__(self, message: str, failure: Failure, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.failure = failure
        self.retry_after_s = retry_after_s


class Target(Protocol):
    """One receiver of messages.

    Attributes:
        id: the same after every restart, as long as the URL is.
        name: scheme and host, safe to log.
        kind: whether it takes JSON, or title and text.
    """

    id: str
    name: str
    kind: TargetKind

    async def send(self, message_id: str, message: Message, now: float) -> str:
        """Send one message and return what was answered, or raise `DeliveryError`."""

    async def close(self) -> None:
        """Let go of connections."""


def open_targets(urls: Iterable[str], signer: Signer) -> list[Target]:
    """The targets of these URLs; one that is named twice is one target.

    Raises:
        StartError: for a URL that cannot be delivered to, or that needs apprise where it is absent.
    """
    return [target_of(url, signer) for url in dict.fromkeys(urls)]


def target_of(url: str, signer: Signer) -> Target:
    """The target of a URL: ``http(s)://`` and ``json(s)://`` take JSON, others are apprise's."""
    scheme, _, address = url.partition("://")
    if scheme.lower() not in HTTP_SCHEMES:
        return AppriseTarget(url)
    url = f"{HTTP_SCHEMES[scheme.lower()]}://{address}"
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise StartError(f"webhooks: {redacted(url)!r} is not a URL: {error}") from error
    if host_of(url) is None:
        raise StartError(f"webhooks: {redacted(url)!r} names no host")
    return HttpTarget(url, signer)


class HttpTarget:
    """POSTs a message's JSON, signed where there is a secret."""

    kind: TargetKind = "webhook"

    def __init__(self, url: str, signer: Signer) -> None:
        self.id = id_of(url)
        self.name = redacted(url)
        self._url = url
        self._signer = signer
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S)

    async def send(self, message_id: str, message: Message, now: float) -> str:
        """Send one message and return what was answered, or raise `DeliveryError`."""
        content = message.body.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "evenkeel",
            "idempotency-key": message_id,
            "evenkeel-kind": message.kind,
            **self._signer.headers(message_id, content, now),
        }
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._client.post(self._url, content=content, headers=headers)
        except (httpx.HTTPError, TimeoutError) as error:
            text = scrub(f"{type(error).__name__}: {error}".rstrip(": "), self._url)
            raise DeliveryError(text, "away") from error
        return _accepted(answer, self._url, now)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


def _accepted(answer: httpx.Response, url: str, now: float) -> str:
    """What a webhook answered, or a `DeliveryError` unless that is a success."""
    text = f"answered {answer.status_code}"
    if answer.is_success:
        return text
    reason = " ".join(answer.text[: 4 * REASON_LENGTH].split())[:REASON_LENGTH]
    text = f"{text}: {scrub(reason, url)}" if reason else text
    if answer.status_code in AWAY:
        asked = retry_after_s(answer.headers.get("retry-after", ""), now)
        raise DeliveryError(text, "away", retry_after_s=asked)
    raise DeliveryError(text, "refused" if answer.is_client_error else "failed")


def retry_after_s(value: str, now: float) -> float:
    """Seconds that a ``Retry-After`` asks for, as a number or a date; 0 where it says neither."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


class AppriseTarget:
    """A message's title and text, through any apprise service."""

    kind: TargetKind = "apprise"

    def __init__(self, url: str) -> None:
        self.id = id_of(url)
        self._url = url
        hidden = f"{url.partition('://')[0]}://…"  # where others have a host, it may have a token
        try:
            import apprise  # optional, and loads over a hundred services
        except ModuleNotFoundError as error:
            raise StartError(
                f"webhooks: {hidden!r} needs apprise, which is not installed; "
                "install evenkeel[notify], or use an http(s):// URL"
            ) from error
        self._service: Any = apprise.Apprise()
        if not self._service.add(url):
            raise StartError(
                f"webhooks: {hidden!r} is neither http(s):// nor a URL that apprise understands"
            )
        self.name = redacted(self._service[0].url(privacy=True))

    async def send(self, message_id: str, message: Message, now: float) -> str:  # noqa: ARG002
        """Send one message, or raise `DeliveryError`; people need neither its id nor its time."""
        notice = NOTICES[message.severity]
        sending = self._service.async_notify(
            title=message.title, body=message.text, notify_type=notice
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                delivered = await sending
        except TimeoutError as error:
            raise DeliveryError("TimeoutError", "away") from error
        if not delivered:
            raise DeliveryError(
                f"apprise could not deliver it{_reason(delivered, self._url)}", "failed"
            )
        return "apprise delivered it"

    async def close(self) -> None:
        """Nothing to close."""


def _reason(result: Any, url: str) -> str:
    """What apprise 2 says of a failure; older versions answer with a bare boolean."""
    logs = getattr(result, "logs", None)
    entries = list(logs()) if callable(logs) else []
    texts = [str(getattr(entry, "message", entry)) for entry in entries]
    text = " ".join(" ".join(texts).split())[:REASON_LENGTH]
    return f": {scrub(text, url)}" if text else ""


def scrub(text: str, url: str) -> str:
    """A text without what a URL may keep secret: all its longer parts but scheme and host."""
    host = host_of(url) or ""
    for part in sorted(set(re.split(r"[/:@?&=#;,]+", url)), key=len, reverse=True):
        if len(part) >= SECRET_LENGTH and part != host:
            text = text.replace(part, "…").replace(unquote(part), "…")
    return text


def id_of(url: str) -> str:
    """A target's id: the URL itself may hold a secret, and is stored nowhere."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def redacted(url: str) -> str:
    """A target's scheme and host: its path and query may hold a secret token."""
    scheme, _, _ = url.partition("://")
    return f"{scheme}://{host_of(url) or '…'}"


def host_of(url: str) -> str | None:
    """The host that a URL names, or None."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # brackets that do not close
        return None
