"""What endpoints declare of their caller: a scope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from server.access import service, sessions
from server.access.principal import EVERYONE, Principal, Scope
from server.app_state import State
from server.errors import ScopeMissing, WrongKey


async def principal_of(connection: HTTPConnection, state: State) -> Principal:
    """Who is asking.

    Raises:
        WrongKey: if the key is not good, or one is needed and there is none.
    """
    authorization = connection.headers.get("authorization")
    # A wrong key is refused even where none is needed, so that a mistyped one is noticed.
    if authorization is not None:
        return await _holder(authorization, state)
    cookie = connection.cookies.get(sessions.COOKIE)
    secret: bytes = connection.app.state.cookie_secret
    if not state.settings.keys_required:
        return EVERYONE
    if cookie is not None and sessions.is_valid(secret, cookie, state.clock()):
        return EVERYONE
    raise WrongKey(
        "this server needs a key",
        field="key",
        fix="send Authorization: Bearer <key>; `evenkeel key create` makes one",
    )


async def _holder(authorization: str, state: State) -> Principal:
    scheme, _, key = authorization.partition(" ")
    is_bearer = scheme.lower() == "bearer"
    principal = await service.holder(state.database, key.strip()) if is_bearer else None
    if principal is None:
        raise WrongKey(
            "the key is unknown or revoked",
            field="key",
            fix="check EVENKEEL_KEY; `evenkeel key create` makes a new one",
        )
    return principal


Caller = Annotated[Principal, Depends(principal_of)]


def holding(scope: Scope) -> Callable[[Principal], Principal]:
    """A dependency that lets through who holds the scope."""

    def check(caller: Caller) -> Principal:
        require_scope(caller, scope)
        return caller

    return check


def require_scope(caller: Principal, scope: Scope) -> None:
    """Raise `ScopeMissing` unless the caller holds the scope."""
    if not caller.has(scope):
        raise ScopeMissing(
            f"the key lacks the scope {scope!r}",
            field="key",
            fix=f"use a key with the scope {scope!r}",
        )


def require_project(caller: Principal, project: str) -> None:
    """Raise `ScopeMissing` unless the caller may touch the project."""
    if not caller.sees(project):
        raise ScopeMissing(
            f"the key is not for project {project!r}",
            field="key",
            fix=f"use a key of project {project!r}, or one for every project",
        )


Ingester = Annotated[Principal, Depends(holding("ingest"))]
Reader = Annotated[Principal, Depends(holding("read"))]
