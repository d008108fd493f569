"""The rows of `deliveries` and `delivery_targets`: one field a column, in the tables' order."""

from __future__ import annotations

from typing import Literal

import msgspec

from server.outbox.message import STORED, Message, Severity

DeliveryStatus = Literal["pending", "delivered", "digested", "dead"]


class DeliveryRow(msgspec.Struct, frozen=True):
    """One message on its way to one target.

    Attributes:
        number: the order of sending.
        id: also the idempotency key, the same at every attempt.
        target: id of its target.
        retry_at: before that moment it is not tried again, once it has stepped aside.
        stepped_aside: whether the messages behind it no longer wait for it.
        expires_at: when it is given up.
        attempted_at: the newest attempt, or None.
        ended_at: when it was delivered, digested or given up, or None.
        answer: what the target answered last, or how it failed.
        held: whether its channel was at its limit while it waited.
        digest: id of the delivery that says it, where it is digested.
    """

    number: int
    id: str
    target: str
    run_id: str
    project: str
    kind: str
    severity: Severity
    title: str
    text: str
    body: str
    status: DeliveryStatus
    attempts: int
    retry_at: float
    stepped_aside: bool
    last_error: str
    created_at: float
    expires_at: float
    attempted_at: float | None
    ended_at: float | None
    answer: str = ""
    held: bool = False
    digest: str | None = None

    @property
    def message(self) -> Message:
        """What is sent."""
        return Message(**{name: getattr(self, name) for name in STORED})


class ListedDelivery(DeliveryRow, frozen=True):
    """A delivery with its target's name, and when that is tried next."""

    target_name: str = ""
    target_retry_at: float = 0.0


class TargetRow(msgspec.Struct, frozen=True):
    """A target, and which worker sends to it.

    Attributes:
        leased_by, leased_until: the worker that may send, and how long no other one may.
        failures: attempts in a row that failed.
        retry_at: before that moment nothing is sent.
    """

    id: str
    name: str
    leased_by: str
    leased_until: float
    failures: int
    retry_at: float

    def is_free(self, worker: str, now: float) -> bool:
        """Whether this worker may lease it."""
        return self.retry_at <= now and (self.leased_until <= now or self.leased_by == worker)
