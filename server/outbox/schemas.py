"""The JSON form of deliveries."""

from __future__ import annotations

from server.outbox.message import Severity
from server.outbox.rows import DeliveryStatus
from server.schemas import Answer


class Delivery(Answer):
    """One message on its way to one target.

    Attributes:
        id: also the `Idempotency-Key` that the target receives at every attempt.
        next_attempt_at: null unless it is pending.
    """

    id: str
    target: str
    kind: str
    run_id: str
    severity: Severity
    title: str
    status: DeliveryStatus
    attempts: int
    last_error: str
    created_at: float
    expires_at: float
    attempted_at: float | None
    next_attempt_at: float | None
    ended_at: float | None


class DeliveryPage(Answer):
    """Deliveries, newest first."""

    deliveries: list[Delivery]
    next_cursor: str | None


class TargetAnswer(Answer):
    """What one target answered to a test message."""

    target: str
    delivered: bool
    answer: str


class TargetAnswers(Answer):
    """What every target answered."""

    answers: list[TargetAnswer]
