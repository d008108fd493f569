"""The JSON form of deliveries."""

from __future__ import annotations

from server.outbox.message import Severity
from server.outbox.rows import DeliveryStatus
from server.schemas import Answer


class Delivery(Answer):
    """One message on its way to one target.

    Attributes:
        id: also the `Idempotency-Key` that the target receives at every attempt.
        target: the channel's name, or scheme and host of a URL of the settings.
        channel: id of the channel.
        text: what people are told.
        answer: what the target answered last, or how it failed; "" before the first attempt.
        held: whether it waited because its channel was at its limit.
        digest: id of the delivery that says it, where the status is digested.
        next_attempt_at: null unless it is pending.
    """

    id: str
    target: str
    channel: str
    kind: str
    run_id: str
    severity: Severity
    title: str
    text: str
    status: DeliveryStatus
    attempts: int
    last_error: str
    answer: str
    held: bool
    digest: str | None
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
