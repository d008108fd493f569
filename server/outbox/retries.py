"""What becomes of a delivery and its target after an attempt. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from server.outbox.rows import DeliveryRow, TargetRow
from server.outbox.targets import DeliveryError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
STEPS_ASIDE_AFTER = 5  # attempts at which a target failed, about a quarter of a minute


class Changes(NamedTuple):
    """The columns that an attempt sets."""

    delivery: dict[str, Any]
    target: dict[str, Any]


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, up to a limit."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_S)


def after_success(delivery: DeliveryRow, answer: str, now: float) -> Changes:
    """Delivered, and the target is well."""
    ended = {"status": "delivered", "ended_at": now, "last_error": "", "answer": answer}
    return Changes(_attempted(delivery, now) | ended, {"failures": 0, "retry_at": 0.0})


def after_failure(
    delivery: DeliveryRow, target: TargetRow, error: DeliveryError, now: float
) -> Changes:
    """Tried again later, or given up.

    A target that is away keeps everything waiting, in order. A message that fails again and again
    at a target which answers steps aside, so that it does not stop what is behind it.
    """
    attempted = _attempted(delivery, now) | {
        "last_error": str(error),
        "answer": str(error),
    }
    if error.failure == "refused":
        return Changes(attempted | _dead(now), {"failures": 0, "retry_at": 0.0})
    changes = _retried(delivery, target, error, now)
    if delivery.expires_at <= now:
        return Changes(attempted | _dead(now), changes.target)
    return Changes(attempted | changes.delivery, changes.target)


def _retried(delivery: DeliveryRow, target: TargetRow, error: DeliveryError, now: float) -> Changes:
    failures = target.failures + 1
    attempts = delivery.attempts + 1
    if error.failure == "failed" and attempts >= STEPS_ASIDE_AFTER:
        aside = {"stepped_aside": True, "retry_at": now + pause_s(attempts)}
        # Tried at once, the next message tells whether it is the target that fails.
        return Changes(aside, {} if delivery.stepped_aside else {"failures": failures})
    pause = max(pause_s(failures), error.retry_after_s)
    return Changes({}, {"failures": failures, "retry_at": now + pause})


def _attempted(delivery: DeliveryRow, now: float) -> dict[str, Any]:
    return {"attempts": delivery.attempts + 1, "attempted_at": now}


def _dead(now: float) -> dict[str, Any]:
    return {"status": "dead", "ended_at": now}
