"""The dashboard's only access to data: the HTTP API, over a URL or in this very process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
import msgspec
from fastapi import FastAPI

from dashboard.api_types import (
    Attribution,
    DescriptionRequest,
    Failure,
    History,
    Incident,
    IncidentPage,
    Predictions,
    Profile,
    Revision,
    RunDetail,
    RunPage,
    RunSummary,
)

BASE = "/api/v1"
TIMEOUT_S = 10.0
LARGEST_PAGE = 500  # as the API has it

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Answer]):
    """A path as the OpenAPI schema writes it, and the type of its answer."""

    method: str
    path: str
    answer: type[Answer]


RUNS = Endpoint("GET", "/runs", RunPage)
RUN = Endpoint("GET", "/runs/{run_id}", RunDetail)
PROFILE = Endpoint("GET", "/runs/{run_id}/profile", Profile)
HISTORY = Endpoint("GET", "/runs/{run_id}/history", History)
PREDICTIONS = Endpoint("GET", "/runs/{run_id}/predictions", Predictions)
ATTRIBUTION = Endpoint("GET", "/runs/{run_id}/attribution", Attribution)
DESCRIBE = Endpoint("POST", "/runs/{run_id}/describe", DescriptionRequest)
INCIDENTS = Endpoint("GET", "/incidents", IncidentPage)


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
    """Reads runs, profiles, predictions and incidents.

    Every method raises `ApiError` when the server refuses, is away, or answers in a form that
    differs from `dashboard.api_types`.
    """

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
        # Not shared between requests: the credentials are those of one visitor.
        headers = dict(self._credentials())
        if self._url is not None:
            return httpx.AsyncClient(base_url=self._url, headers=headers, timeout=TIMEOUT_S)
        # A server without keys answers to loopback alone, so the request says it comes from there.
        transport = httpx.ASGITransport(app=self._app, client=("127.0.0.1", 0))
        return httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=TIMEOUT_S
        )

    async def _request(
        self, endpoint: Endpoint[Answer], params: Mapping[str, Any] | None = None, **ids: str
    ) -> Answer:
        # To the API an empty filter is a value that matches nothing, so it is left out.
        query = {name: value for name, value in (params or {}).items() if value not in (None, "")}
        address = BASE + endpoint.path.format(**ids)
        try:
            async with self._open() as http:
                response = await http.request(endpoint.method, address, params=query)
        except httpx.HTTPError as error:
            raise ApiError(0, f"the server did not answer: {error}") from error
        if response.is_error:
            raise _refusal(response)
        return _decode(response, endpoint.answer)

    async def runs(
        self,
        *,
        search: str = "",
        project: str = "",
        status: str = "",
        limit: int = 50,
    ) -> list[RunSummary]:
        """The newest runs that match; page after page until there are `limit`."""
        filters = {"search": search, "project": project, "status": status}
        runs: list[RunSummary] = []
        cursor: str | None = ""
        while cursor is not None and len(runs) < limit:
            size = min(limit - len(runs), LARGEST_PAGE)
            page = await self._request(RUNS, {**filters, "limit": size, "cursor": cursor})
            runs += page.runs
            cursor = page.next_cursor
        return runs

    async def run(self, run_id: str) -> RunDetail:
        """One run in detail."""
        return await self._request(RUN, run_id=run_id)

    async def profile(self, run_id: str, step: int | None = None) -> Profile | None:
        """Measured vectors at the sampled step nearest to `step` from below; None before any.

        What is derived of them is left out: the scripts read it once the page stands.
        """
        params = {"step": step, "derived": "false"}
        try:
            return await self._request(PROFILE, params, run_id=run_id)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def history(self, run_id: str, series: str, max_steps: int) -> History:
        """One series over steps, evenly thinned."""
        params = {"series": series, "max_steps": max_steps}
        return await self._request(HISTORY, params, run_id=run_id)

    async def predictions(self, run_id: str) -> list[Revision]:
        """The run's prediction revisions, ascending by step."""
        return (await self._request(PREDICTIONS, run_id=run_id)).revisions

    async def attribution(self, run_id: str, step: int) -> Attribution:
        """Why the description that held at a step differs from the first."""
        return await self._request(ATTRIBUTION, {"step": step}, run_id=run_id)

    async def describe(self, run_id: str) -> DescriptionRequest:
        """Ask the running job to describe its model again, as its weights now are."""
        return await self._request(DESCRIBE, run_id=run_id)

    async def incidents(
        self, *, run: str = "", status: str = "", limit: int = 100
    ) -> list[Incident]:
        """The newest incidents that match; page after page until there are `limit`."""
        incidents: list[Incident] = []
        cursor: str | None = ""
        while cursor is not None and len(incidents) < limit:
            size = min(limit - len(incidents), LARGEST_PAGE)
            params = {"run": run, "status": status, "limit": size, "cursor": cursor}
            page = await self._request(INCIDENTS, params)
            incidents += page.incidents
            cursor = page.next_cursor
        return incidents


def _decode(response: httpx.Response, answer: type[Answer]) -> Answer:
    try:
        # Not strict, so that a float field also takes "NaN" and "Infinity".
        return msgspec.json.decode(response.content, type=answer, strict=False)
    except msgspec.DecodeError as error:
        message = f"the server's answer cannot be read: {error}"
        raise ApiError(response.status_code, message, "Update the server or the pages.") from error


def _refusal(response: httpx.Response) -> ApiError:
    try:
        error = msgspec.json.decode(response.content, type=Failure).error
    except msgspec.DecodeError:  # a proxy's page, or a 500 without a body
        return ApiError(response.status_code, f"the server answered {response.status_code}")
    return ApiError(response.status_code, error.message, error.fix)
