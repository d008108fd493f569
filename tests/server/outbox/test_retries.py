"""What becomes of a delivery after an attempt."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.outbox.retries import (
    LONGEST_PAUSE_S,
    STEPS_ASIDE_AFTER,
    after_failure,
    after_success,
    pause_s,
)
from server.outbox.rows import DeliveryRow, TargetRow
from server.outbox.targets import DeliveryError
from tests.server.outbox.samples import delivery, target

AWAY = DeliveryError("ConnectError", "away")
FAILED = DeliveryError("answered 500", "failed")
REFUSED = DeliveryError("answered 404", "refused")


def fail(
    row: DeliveryRow, at: TargetRow, error: DeliveryError, now: float, times: int = 1
) -> tuple[DeliveryRow, TargetRow]:
    for _ in range(times):
        changes = after_failure(row, at, error, now)
        row = msgspec.structs.replace(row, **changes.delivery)
        at = msgspec.structs.replace(at, **changes.target)
    return row, at


def test_pauses_double_up_to_a_limit():
    pauses = [pause_s(failures) for failures in range(1, 2_000)]

    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(pauses) == LONGEST_PAUSE_S
    assert all(shorter <= longer for shorter, longer in pairwise(pauses))


def test_target_that_is_away_keeps_its_messages_in_order():
    row, at = fail(delivery(), target(), AWAY, now=100.0, times=50)

    assert (row.status, row.stepped_aside, row.attempts) == ("pending", False, 50)
    assert at.retry_at == 100.0 + LONGEST_PAUSE_S


def test_message_that_a_target_fails_at_steps_aside_and_lets_the_next_one_try():
    row, before = fail(delivery(), target(), FAILED, now=100.0, times=STEPS_ASIDE_AFTER - 1)
    assert not row.stepped_aside

    row, at = fail(row, before, FAILED, now=200.0)

    assert (row.status, row.stepped_aside) == ("pending", True)
    assert row.retry_at == 200.0 + pause_s(STEPS_ASIDE_AFTER)
    assert at.retry_at == before.retry_at <= 200.0


def test_message_that_has_stepped_aside_says_nothing_of_its_target():
    row, _ = fail(delivery(), target(), FAILED, now=0.0, times=STEPS_ASIDE_AFTER)

    later, at = fail(row, target(), FAILED, now=100.0)

    assert at == target()
    assert later.retry_at > row.retry_at


def test_target_is_left_alone_for_as_long_as_it_asks():
    asked = DeliveryError("answered 429", "away", retry_after_s=120.0)

    _, at = fail(delivery(), target(), asked, now=100.0)

    assert at.retry_at == 220.0


def test_refusal_ends_a_delivery_and_delays_nothing():
    row, at = fail(delivery(), target(failures=3), REFUSED, now=100.0)

    assert (row.status, row.ended_at, row.last_error) == ("dead", 100.0, "answered 404")
    assert (at.failures, at.retry_at) == (0, 0.0)


@pytest.mark.parametrize("error", [AWAY, FAILED])
def test_delivery_is_given_up_in_the_end(error: DeliveryError):
    row = delivery(expires_at=1_000.0)

    assert fail(row, target(), error, now=999.0)[0].status == "pending"
    assert fail(row, target(), error, now=1_000.0)[0].status == "dead"


def test_success_ends_a_delivery_and_clears_its_target():
    row = delivery(attempts=3, last_error="answered 500")

    changes = after_success(row, "answered 200", 5.0)

    assert changes.delivery["status"] == "delivered"
    assert (changes.delivery["attempts"], changes.delivery["last_error"]) == (4, "")
    assert changes.delivery["answer"] == "answered 200"
    assert changes.target == {"failures": 0, "retry_at": 0.0}


@given(st.lists(st.sampled_from([AWAY, FAILED, REFUSED]), max_size=60))
def test_pending_deliveries_always_have_a_next_attempt_before_long(errors: list[DeliveryError]):
    row, at, now = delivery(), target(), 0.0
    for error in errors:
        row, at = fail(row, at, error, now)
        if row.status == "dead":
            break
        next_at = max(row.retry_at, at.retry_at)
        assert next_at <= now + LONGEST_PAUSE_S
        now = max(now, next_at)

    assert row.status == "dead" or row.attempts == len(errors)
