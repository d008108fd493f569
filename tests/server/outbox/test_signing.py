"""Signatures as a receiver checks them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Any

import pytest

from server.errors import StartError
from server.outbox.signing import Signer

KEY = bytes(range(32))
SECRET = base64.b64encode(KEY).decode()
BODY = b'{"event": "test"}'


def test_signature_is_the_published_example_of_the_specification():
    signer = Signer(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    body = b'{"test": 2432232314}'

    headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330.0)

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_signature_covers_id_time_and_body():
    headers = Signer([SECRET]).headers("abc", BODY, 12.9)

    digest = hmac.new(KEY, b"abc.12." + BODY, hashlib.sha256).digest()
    assert headers["webhook-timestamp"] == "12"
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_every_secret_signs_so_that_one_can_be_replaced():
    other = base64.b64encode(KEY[::-1]).decode()

    old, new, both = (
        Signer(secrets).headers("abc", BODY, 1.0)["webhook-signature"]
        for secrets in ([SECRET], [other], [SECRET, other])
    )

    assert both.split() == [old, new]
    assert old != new


def documented_check() -> Any:
    """The receiver's function, as docs/webhooks.md has it."""
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    return names["is_genuine"]


@pytest.mark.parametrize(
    ("sent_s_ago", "changes", "body", "genuine"),
    [
        (0, {}, BODY, True),
        (250, {}, BODY, True),
        (400, {}, BODY, False),
        (0, {"webhook-id": "abd"}, BODY, False),
        (0, {"webhook-signature": ""}, BODY, False),
        (0, {}, BODY + b" ", False),
    ],
)
def test_documented_receiver_takes_what_is_genuine_and_new(sent_s_ago, changes, body, genuine):
    headers = Signer([SECRET]).headers("abc", BODY, time.time() - sent_s_ago)

    assert documented_check()(f"whsec_{SECRET}", headers | changes, body) is genuine


def test_without_a_secret_nothing_is_signed():
    assert "webhook-signature" not in Signer().headers("abc", BODY, 1.0)


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_c2hvcnQ=", "not base64, though long" * 3])
def test_secret_that_is_none_stops_the_start_and_is_not_printed(secret: str):
    with pytest.raises(StartError, match=r"webhook_secrets: .*openssl rand") as error:
        Signer([secret])

    assert not secret or secret not in str(error.value)
