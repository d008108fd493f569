"""What endpoints declare to be let through: a scope, or a run that the caller may touch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path
from sqlalchemy import RowMapping
from starlette.requests import HTTPConnection

from server.access import service, sessions
from server.access.principal import EVERYONE, Principal, Scope
from server.app_state import State
from server.errors import RunNotFound, ScopeMissing, WrongKey
from server.runs.repository import RunRepository

RunId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hexadecimal digits")]


async def principal_of(connection: HTTPConnection, state: State) -> Principal:
    """Who is asking.

    Raises:
        WrongKey: if a key is given and is not good, or one is needed and none is given.
    """
    given = connection.headers.get("authorization")
    if given is not None:
        return await _holder(given, state)
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


async def _holder(given: str, state: State) -> Principal:
    scheme, _, key = given.partition(" ")
    found = (
        await service.holder(state.database, key.strip()) if scheme.lower() == "bearer" else None
    )
    if found is None:
        raise WrongKey(
            "the key is unknown or revoked",
            field="key",
            fix="check EVENKEEL_KEY; `evenkeel key create` makes a new one",
        )
    return found


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


def _run_for(scope: Scope) -> Callable[..., Awaitable[RowMapping]]:
    async def load(run_id: RunId, caller: Caller, state: State) -> RowMapping:
        require_scope(caller, scope)
        async with state.database.reading() as session:
            run = await RunRepository(session).get(run_id)
        if run is None:
            raise RunNotFound(run_id)
        require_project(caller, run["project"])
        return run

    return load


Ingester = Annotated[Principal, Depends(holding("ingest"))]
Reader = Annotated[Principal, Depends(holding("read"))]
WritableRun = Annotated[RowMapping, Depends(_run_for("ingest"))]
ReadableRun = Annotated[RowMapping, Depends(_run_for("read"))]
EditableRun = Annotated[RowMapping, Depends(_run_for("admin"))]
