"""API and dashboard as one ASGI application."""

from __future__ import annotations

from fastapi import FastAPI

from dashboard.app import mount
from server.app import create_app
from server.settings import Settings


def compose(settings: Settings) -> FastAPI:
    """Return the server of `settings` with the dashboard's pages at ``/``.

    Raises:
        StartError: if the settings cannot be served.
    """
    app = create_app(settings)
    mount(app)
    return app
