"""Answer every failure in one JSON form, with the field and the fix."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from server.database import refuses_value
from server.errors import InvalidField, MonitorError, NotFound, Unavailable

CLOSE_POLICY = 1008
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "2"}}

log = structlog.get_logger(__name__)


def error_response(error: MonitorError) -> Response:
    """The error as a JSON answer."""
    body = {
        "code": error.code,
        "field": error.field,
        "message": error.message,
        "fix": error.fix,
    }
    return JSONResponse(
        {"error": body}, status_code=error.status, headers=HEADERS.get(error.status)
    )


def install(app: FastAPI) -> None:
    """Answer every failure of this app in the form of `server.schemas.Failure`."""
    answers: dict[type[Exception], Any] = {
        MonitorError: _on_monitor_error,
        RequestValidationError: _on_invalid,
        WebSocketRequestValidationError: _on_invalid,
        HTTPException: _on_http,
        OSError: _on_unreachable,
        DBAPIError: _on_database_error,
        Exception: _on_bug,
    }
    for kind, answer in answers.items():
        app.add_exception_handler(kind, answer)


async def _on_monitor_error(connection: HTTPConnection, error: Exception) -> Response | None:
    if not isinstance(error, MonitorError):  # pragma: no cover - registered for no other
        raise error
    if isinstance(connection, WebSocket):
        await connection.close(CLOSE_POLICY, reason=f"{error.code}: {error.message}"[:120])
        return None
    return error_response(error)


async def _on_invalid(connection: HTTPConnection, error: Exception) -> Response | None:
    errors: Any = getattr(error, "errors", list)()
    first = errors[0] if errors else {"loc": (), "msg": "invalid", "type": ""}
    # Pydantic's path begins with where the value was sent, which no caller would look for.
    path = [part for part in first["loc"] if part not in ("query", "path", "body")] or ["body"]
    field = str(path[0]) + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:]
    )
    expected = f"send {field} as /api/v1/openapi.json describes it"
    answer = InvalidField(str(first["msg"]), field=field, fix=expected)
    return await _on_monitor_error(connection, answer)


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # pragma: no cover - registered for no other
        raise error
    if error.status_code == 400:  # what FastAPI raises for a body that is not text
        return error_response(
            InvalidField(str(error.detail), field="body", fix="send JSON, in UTF-8")
        )
    answer: MonitorError = NotFound(
        f"{error.detail}: {request.method} {request.url.path}",
        fix="see /api/v1/openapi.json for what there is",
    )
    answer.status = error.status_code
    answer.code = "method_not_allowed" if error.status_code == 405 else answer.code
    return error_response(answer)


async def _on_database_error(connection: HTTPConnection, error: Exception) -> Response | None:
    if isinstance(error, DBAPIError) and refuses_value(error):
        answer = InvalidField(
            "the database refuses a value of this request",
            field="body" if getattr(connection, "method", "GET") != "GET" else "query",
            fix="send text without NUL characters, and numbers within 64 bits",
        )
        return await _on_monitor_error(connection, answer)
    return await _on_unreachable(connection, error)


async def _on_unreachable(connection: HTTPConnection, error: Exception) -> Response | None:
    log.warning("dependency_unreachable", error=repr(error))
    answer = Unavailable(
        "the database or the bus does not answer", fix="try again in a few seconds"
    )
    return await _on_monitor_error(connection, answer)


async def _on_bug(connection: HTTPConnection, error: Exception) -> Response | None:  # noqa: ARG001
    answer = MonitorError(
        "the server failed at this request", fix="look into the server's log, and report it"
    )
    answer.status, answer.code = 500, "internal"
    return await _on_monitor_error(connection, answer)
