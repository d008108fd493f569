"""Which evenkeel runs in the job."""

from __future__ import annotations

from functools import cache


@cache
def package_version() -> str:
    """The installed version, or "unknown" where the package runs uninstalled."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("evenkeel-agent")
    except PackageNotFoundError:
        return "unknown"
