"""What is checked of every connection, whatever it asks for: its host, origin and login."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access import sessions
from server.clock import Clock
from server.error_handlers import CLOSE_POLICY, error_response
from server.errors import MonitorError
from server.settings import Settings, is_loopback

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The API checks keys by itself, and probes and browsers that log in bring no cookie yet.
OPEN_PATHS = ("/api/", "/healthz", "/readyz", "/metrics", "/login")
LOGIN_NEEDED = "Log in first: open the one-time URL that `evenkeel login` prints.\n"


class ForeignHost(MonitorError):
    """A request under a name that is not this machine's: a rebound DNS name of a web page."""

    status = 403
    code = "foreign_host"


class ForeignOrigin(MonitorError):
    """A request that another site's page sent through the user's browser."""

    status = 403
    code = "foreign_origin"


class AccessMiddleware:
    """Refuses connections by where they come from, before anything else looks at them.

    Without keys the server trusts everything on this machine, so a web page elsewhere must not
    reach it through the user's browser: the Host must be loopback, and a page's own Origin must
    be this server. With keys, pages need the login cookie; the API checks keys by itself.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, secret: bytes, clock: Clock) -> None:
        self._app = app
        self._settings = settings
        self._secret = secret
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # the handshake must be read before it can be refused
            await send({"type": "websocket.close", "code": CLOSE_POLICY, "reason": "refused"})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        host = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        if not self._settings.keys_required and not is_loopback(host):
            return error_response(
                ForeignHost(
                    f"this server without keys answers on loopback only, not as {host!r}",
                    field="host",
                    fix="open it as http://127.0.0.1, or start it with EVENKEEL_REQUIRE_KEYS=1",
                )
            )
        return self._foreign_origin(connection) or self._login_needed(connection)

    def _foreign_origin(self, connection: HTTPConnection) -> Response | None:
        origin = connection.headers.get("origin")
        # A WebSocket has no method and is not safe: browsers open one to any other site.
        safe = connection.scope.get("method", "") in SAFE_METHODS
        if origin is None or safe:
            return None
        if urlsplit(origin).netloc == connection.headers.get("host"):
            return None
        return error_response(
            ForeignOrigin(
                f"a page of {origin} may not act on this server",
                field="origin",
                fix="act from this server's own pages, or send no Origin from a script",
            )
        )

    def _login_needed(self, connection: HTTPConnection) -> Response | None:
        path = connection.scope["path"]
        if not self._settings.keys_required or path.startswith(OPEN_PATHS):
            return None
        cookie = connection.cookies.get(sessions.COOKIE, "")
        if sessions.is_valid(self._secret, cookie, self._clock()):
            return None
        return PlainTextResponse(LOGIN_NEEDED, status_code=401)
