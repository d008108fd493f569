"""The pages: Dash on the server's own FastAPI app, fed by the HTTP API alone."""

from dashboard.app import mount

__all__ = ["mount"]
