"""Whatever bytes come, decoding answers a message or a `WireError` that names a field."""

from __future__ import annotations

import msgspec
import pytest

from tests.services.fuzzing import bodies
from wire import (
    Frame,
    FrameBatch,
    FramesReceipt,
    Health,
    JsonDecoder,
    Layout,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    Series,
    SpecRevision,
    WireError,
    decode_batch,
    encode_batch,
)

HASH = "0" * 32
HEALTH = Health(
    first_failure="RuntimeError: größer", silent=("blocks.0", "blocks.1"), burst="a" * 32
)
BATCHES = [
    encode_batch(FrameBatch(rank=0, oldest=1, frames=[], health=HEALTH)),
    encode_batch(
        FrameBatch(
            rank=3,
            oldest=7,
            frames=[Frame(seq, seq, 1e9, HASH, b"\0\0\x80\x3f" * 2) for seq in (7, 8)],
            health=HEALTH,
        )
    ),
]
LAYOUT = Layout((Series("decoder", "stream", "variance", 5), Series("", "loss", "value", 1)))
SPEC = {"stacks": {"decoder": {"blocks": [None, {"beta": 0.5}], "note": "µ"}}, "n_params": 7}
MESSAGES = [
    RunDeclaration("p", "run α", LAYOUT, SPEC, ("a", "b"), {"lr": 3e-4, "bf16": True}, 1.0, "0.1"),
    SpecRevision(3, SPEC),
    RunEnd("failed", "out of memory"),
    RunReceipt(HASH, {"0": 3}, "/runs/0"),
    FramesReceipt(3, 1, 0),
]
NOT_UTF8 = b"\x82\xa2\x00\x00\x00\xa9" + bytes(8) + b"\x80"


def refused(decode, body: bytes) -> int:
    """1 for a refusal, which names a field and a fix; 0 for a message."""
    try:
        decode(body)
    except WireError as error:
        assert error.field and error.fix
        return 1
    return 0


def test_field_that_is_not_utf8_is_refused():
    assert refused(decode_batch, NOT_UTF8)


def test_text_of_a_batch_that_is_not_utf8_is_refused():
    assert refused(decode_batch, BATCHES[0].replace("ö".encode(), b"\xff\xff"))


@pytest.mark.parametrize(
    "config",
    [b'{"a": "\xed\xa0\x80"}', b'{"\xff": 1}', b'{"a": "\\ud800 "}', b'{"a":' + b"[" * 200_000],
    ids=["surrogate", "key", "half a pair", "nesting"],
)
def test_config_that_python_cannot_hold_is_refused(config: bytes):
    body = msgspec.json.encode(MESSAGES[0]).replace(b'{"lr":0.0003,"bf16":true}', config)

    assert refused(JsonDecoder(RunDeclaration).decode, body)


def test_no_bytes_whatever_make_a_batch_raise_anything_else():
    refusals = sum(refused(decode_batch, body) for body in bodies(BATCHES, 20_000))

    assert 10_000 < refusals < 20_000


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_no_bytes_whatever_make_a_json_message_raise_anything_else(message: msgspec.Struct):
    decode = JsonDecoder(type(message)).decode

    refusals = sum(refused(decode, body) for body in bodies([msgspec.json.encode(message)], 5_000))

    assert 2_500 < refusals < 5_000
