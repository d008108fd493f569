"""The rows of `alert_rules` as typed values: one field a column, in the table's order."""

from __future__ import annotations

from typing import Any

import msgspec


class RuleRow(msgspec.Struct, frozen=True):
    """A rule as it is stored; `definition` is the JSON form of a `RuleRequest`."""

    id: str
    project: str | None
    enabled: bool
    definition: dict[str, Any]
    created_at: float
    updated_at: float
