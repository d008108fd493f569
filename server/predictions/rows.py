"""The rows of `spec_revisions` and `predictions` as typed values, in the tables' order."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PredictionState = Literal["ready", "pending", "failed"]


class RevisionRow(msgspec.Struct, frozen=True):
    """A model spec; `spec` is its JSON form under zstd, `digest` identifies its content."""

    run_id: str
    step: int
    digest: str
    spec: bytes
    received_at: float


class PredictionRow(msgspec.Struct, frozen=True):
    """A revision's prediction in its JSON form; None unless it is ready."""

    run_id: str
    step: int
    digest: str
    state: PredictionState
    reason: str
    prediction: dict[str, Any] | None


class PredictionHead(msgspec.Struct, frozen=True):
    """What identifies a prediction, without its curves."""

    step: int
    digest: str
    state: PredictionState
