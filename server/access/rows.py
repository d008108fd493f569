"""The rows of `keys` as typed values: one field a column, in the table's order."""

from __future__ import annotations

import msgspec

from server.access.principal import Scope


class KeyRow(msgspec.Struct, frozen=True):
    """A key; `project` None is every project."""

    id: str
    digest: str
    project: str | None
    scopes: list[Scope]
    label: str
    created_at: float
    revoked_at: float | None
