"""Where alerts are sent: the alert's JSON over HTTP, or a message through apprise."""

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
    """One place that is told of alerts.

    Attributes:
        name: scheme and host, safe to log.
    """

    name: str

    async def send(self, alert: Alert) -> None:
        """Send one alert, or raise `DeliveryError`."""

    async def close(self) -> None:
        """Let go of connections."""


def target_of(url: str) -> Target:
    """The target of a URL: ``http(s)://`` and ``json(s)://`` take the alert's JSON by POST, the
    rest is apprise's.

    Raises:
        StartError: if it is no URL that can be delivered to.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() in HTTP_SCHEMES:
        if not urlsplit(url).hostname:
            raise StartError(f"webhooks: {shown(url)!r} names no host")
        return HttpTarget(f"{HTTP_SCHEMES[scheme.lower()]}://{rest}")
    return AppriseTarget(url)


class HttpTarget:
    """POSTs the alert's JSON, as ``GET /api/v1/alerts`` shows it."""

    def __init__(self, url: str) -> None:
        self.name = shown(url)
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
        refused = answer.is_client_error and answer.status_code not in {408, 425, 429}
        raise DeliveryError(f"answered {answer.status_code}", worth_retrying=not refused)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


class AppriseTarget:
    """A message with the alert's title, sentences and advice, through any apprise service."""

    def __init__(self, url: str) -> None:
        import apprise  # loads over a hundred services: only where one is wanted

        self.name = shown(url)
        self._notifier: Any = apprise.Apprise()
        if not self._notifier.add(url):
            raise StartError(
                f"webhooks: {self.name!r} is neither http(s):// nor a URL that apprise understands"
            )

    async def send(self, alert: Alert) -> None:
        """Send one alert, or raise `DeliveryError`."""
        told = await self._notifier.async_notify(
            title=f"{alert.run_name}: {alert.title}",
            body=f"{alert.message}\n\n{alert.advice.text}",
            notify_type=NOTICES[alert.severity],
        )
        if not told:
            raise DeliveryError("apprise could not deliver it")

    async def close(self) -> None:
        """Nothing is held open."""


def shown(url: str) -> str:
    """A target's scheme and host: the rest of its URL may be a secret."""
    scheme, _, _ = url.partition("://")
    return f"{scheme}://{urlsplit(url).hostname or '…'}"
