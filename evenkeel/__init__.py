"""The command line, the process that serves API and dashboard on one port, and a client of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenkeel.client import Client, ClientError

__all__ = ["Client", "ClientError", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `evenkeel --version` should not wait for numpy and an HTTP library.
    if name in {"Client", "ClientError"}:
        from evenkeel import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
