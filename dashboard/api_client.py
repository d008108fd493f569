"""The one door to data: the HTTP API, over a URL or in this very process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
from fastapi import FastAPI

BASE = "/api/v1"
TIMEOUT_S = 10.0
LARGEST_PAGE = 500  # as the API has it

Json = dict[str, Any]


class ApiError(Exception):
    """The API refused or could not be reached.

    Attributes:
        status: HTTP status, or 0 when there was no answer.
        message: one sentence for the page.
        fix: what the reader can do, or "".
    """

    def __init__(self, status: int, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fix = fix


class ApiClient:
    """Reads runs, profiles, predictions and alerts; acknowledges alerts."""

    def __init__(
        self,
        app: FastAPI,
        *,
        url: str | None = None,
        credentials: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Speak to `url`, or to `app` in-process without a socket when there is none.

        `credentials` gives the headers that say on whose behalf a request is made.
        """
        self._app = app
        self._url = url
        self._credentials = credentials

    def _open(self) -> httpx.AsyncClient:
        headers = dict(self._credentials())
        if self._url is not None:
            return httpx.AsyncClient(base_url=self._url, headers=headers, timeout=TIMEOUT_S)
        transport = httpx.ASGITransport(app=self._app, client=("127.0.0.1", 0))
        return httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=TIMEOUT_S
        )

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> Json:
        given = {name: value for name, value in (params or {}).items() if value not in (None, "")}
        try:
            async with self._open() as http:
                answer = await http.request(method, f"{BASE}{path}", params=given)
        except httpx.HTTPError as error:
            raise ApiError(0, f"the server did not answer: {error}") from error
        if answer.is_error:
            raise _refusal(answer)
        found: Json = answer.json()
        return found

    async def runs(
        self,
        *,
        search: str = "",
        project: str = "",
        status: str = "",
        limit: int = 50,
    ) -> list[Json]:
        """The newest runs that match, as `RunSummary`; page after page until there are `limit`."""
        params = {"search": search, "project": project, "status": status}
        found: list[Json] = []
        cursor: str | None = ""
        while cursor is not None and len(found) < limit:
            most = min(limit - len(found), LARGEST_PAGE)
            asked = {**params, "limit": most, "cursor": cursor}
            page = await self._ask("GET", "/runs", params=asked)
            found += page["runs"]
            cursor = page["next_cursor"]
        return found

    async def run(self, run_id: str) -> Json:
        """One run's `RunDetail`."""
        return await self._ask("GET", f"/runs/{run_id}")

    async def profile(self, run_id: str, step: int | None = None) -> Json | None:
        """Measured vectors at the sampled step nearest to `step` from below; None before any."""
        try:
            return await self._ask("GET", f"/runs/{run_id}/profile", params={"step": step})
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def history(self, run_id: str, series: str, max_steps: int) -> Json:
        """One series over steps, evenly thinned."""
        params = {"series": series, "max_steps": max_steps}
        return await self._ask("GET", f"/runs/{run_id}/history", params=params)

    async def predictions(self, run_id: str) -> list[Json]:
        """The run's prediction revisions, ascending by step."""
        return list((await self._ask("GET", f"/runs/{run_id}/predictions"))["revisions"])

    async def alerts(self, *, run: str = "", status: str = "", limit: int = 100) -> list[Json]:
        """The newest alerts that match."""
        params = {"run": run, "status": status, "limit": limit}
        return list((await self._ask("GET", "/alerts", params=params))["alerts"])

    async def describe(self, run_id: str) -> Json:
        """Ask the running job to describe its model again, as its weights now are."""
        return await self._ask("POST", f"/runs/{run_id}/describe")

    async def acknowledge(self, alert_id: str) -> Json:
        """Mark an alert as seen; it stays open in the record."""
        return await self._ask("POST", f"/alerts/{alert_id}/acknowledge")


def _refusal(answer: httpx.Response) -> ApiError:
    try:
        error = answer.json()["error"]
        return ApiError(answer.status_code, str(error["message"]), str(error.get("fix", "")))
    except (ValueError, KeyError, TypeError):
        return ApiError(answer.status_code, f"the server answered {answer.status_code}")
