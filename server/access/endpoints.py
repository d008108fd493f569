"""``/login``: a browser's way in."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from server.access import service, sessions
from server.app_state import State
from server.errors import WrongKey

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def log_in(request: Request, state: State, token: str) -> Response:
    """Trade a one-time token for the login cookie."""
    if not await service.use_login(state.database, token, state.clock):
        raise WrongKey(
            "this login URL is used up or expired",
            field="token",
            fix="print a new one with `evenkeel login`",
        )
    # Away from this URL at once, so that the token does not stay in the address bar.
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        sessions.COOKIE,
        sessions.issue(request.app.state.cookie_secret, state.clock()),
        max_age=sessions.LIFETIME_S,
        httponly=True,
        samesite="lax",  # sent along when a link to a run is followed, not with a foreign POST
        secure=request.url.scheme == "https",
    )
    return answer
