"""Send an alert: its JSON to a webhook over HTTP, or a message (mail, chat) through apprise."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from server.alerts.schemas import Alert
from server.errors import StartError

TIMEOUT_S = 10.0
HTTP_SCHEMES = {"http": "http", "https": "https", "json": "http", "jsons": "https"}
NOTICES = {"critical": "failure", "warning": "warning", "info": "info"}


class DeliveryError(Exception):
    """A target did not take an alert; `worth_retrying` where it may take it later."""

    def __init__(self, message: str, *, worth_retrying: bool = True) -> None:
        super().__init__(message)
        self.worth_retrying = worth_retrying


class Target(Protocol):
    """One receiver of alerts.

    Attributes:
        name: scheme and host, safe to log.
    """

    name: str

    async def send(self, alert: Alert) -> None:
        """Send one alert, or raise `DeliveryError`."""

    async def close(self) -> None:
        """Let go of connections."""


def target_of(url: str) -> Target:
    """The target of a URL.

    ``http(s)://`` and ``json(s)://`` take the alert's JSON by POST; other schemes are apprise's.

    Raises:
        StartError: if it is no URL that can be delivered to, or apprise is needed and absent.
    """
    scheme, _, address = url.partition("://")
    if scheme.lower() in HTTP_SCHEMES:
        if not urlsplit(url).hostname:
            raise StartError(f"webhooks: {redacted(url)!r} names no host")
        return HttpTarget(f"{HTTP_SCHEMES[scheme.lower()]}://{address}")
    return AppriseTarget(url)


class HttpTarget:
    """POSTs the alert's JSON, as ``GET /api/v1/alerts`` shows it."""

    def __init__(self, url: str) -> None:
        self.name = redacted(url)
        self._url = url
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S)

    async def send(self, alert: Alert) -> None:
        """Send one alert, or raise `DeliveryError`."""
        headers = {"content-type": "application/json", "user-agent": "evenkeel"}
        body = alert.model_dump_json()
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from error
        if answer.is_success:
            return
        # 408, 425 and 429 ask to come back later; the other 4xx would answer the same again.
        refused = answer.is_client_error and answer.status_code not in {408, 425, 429}
        raise DeliveryError(f"answered {answer.status_code}", worth_retrying=not refused)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


class AppriseTarget:
    """A message with the alert's title, sentences and advice, through any apprise service."""

    def __init__(self, url: str) -> None:
        self.name = redacted(url)
        try:
            import apprise  # optional, and loads over a hundred services
        except ModuleNotFoundError as error:
            raise StartError(
                f"webhooks: {self.name!r} needs apprise, which is not installed; "
                "install evenkeel[notify], or use an http(s):// URL"
            ) from error
        self._notifier: Any = apprise.Apprise()
        if not self._notifier.add(url):
            raise StartError(
                f"webhooks: {self.name!r} is neither http(s):// nor a URL that apprise understands"
            )

    async def send(self, alert: Alert) -> None:
        """Send one alert, or raise `DeliveryError`."""
        delivered = await self._notifier.async_notify(
            title=f"{alert.run_name}: {alert.title}",
            body=f"{alert.message}\n\n{alert.advice.text}",
            notify_type=NOTICES[alert.severity],
        )
        if not delivered:
            raise DeliveryError("apprise could not deliver it")

    async def close(self) -> None:
        """Nothing to close."""


def redacted(url: str) -> str:
    """A target's scheme and host: its path and query may hold a secret token."""
    scheme, _, _ = url.partition("://")
    return f"{scheme}://{urlsplit(url).hostname or '…'}"
