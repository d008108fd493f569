"""A connection to a server's API."""

from __future__ import annotations

from typing import Any

import httpx

from evenkeel.api import PAGE_SIZE, client_of, read
from evenkeel.client.errors import clear_errors

MANY = 1_000


class Connection:
    """Reads JSON of a server.

    Attributes:
        server: its address.
        http: the client of its API.
    """

    def __init__(self, server: str, key: str | None) -> None:
        self.server = server.rstrip("/")
        with clear_errors():
            self.http: httpx.Client = client_of(self.server, key)

    def read(self, path: str, **params: Any) -> Any:
        """The JSON at `path`; raises `ClientError` with the server's message."""
        with clear_errors():
            return read(self.http, path, **params)

    def pages(
        self, name: str, params: dict[str, str | None], limit: int = MANY
    ) -> list[dict[str, Any]]:
        """The newest `limit` entries of a list; filters that are None are left out."""
        filters = {name: value for name, value in params.items() if value}
        entries: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(entries) < limit:
            more = {} if cursor is None else {"cursor": cursor}
            size = min(PAGE_SIZE, limit - len(entries))
            page = self.read(f"/{name}", **filters, limit=size, **more)
            entries += page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return entries
