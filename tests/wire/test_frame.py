import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import (
    WIRE_VERSION,
    Command,
    Frame,
    FrameBatch,
    FramesReceipt,
    Health,
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
floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


def frame(seq: int, *, step: int = 0, values: bytes = b"\0\0\0\0") -> Frame:
    return Frame(seq=seq, step=step, time=0.0, layout=HASH, values=values)


def batch(*frames: Frame, rank: int = 0, wire_version: int = WIRE_VERSION) -> FrameBatch:
    return FrameBatch(
        rank=rank, oldest=1, frames=list(frames), health=Health(), wire_version=wire_version
    )


def refusal(body: bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        decode_batch(body)
    assert caught.value.fix
    return caught.value


@given(st.lists(floats, max_size=40))
def test_every_float_survives_the_wire_bit_for_bit(values: list[float]) -> None:
    sent = np.array(values, dtype=np.float32)
    packed = Frame.pack(seq=1, step=0, time=0.0, layout=HASH, values=sent)

    (received,) = decode_batch(encode_batch(batch(packed))).frames

    assert received.unpack().tobytes() == sent.tobytes()


def test_values_that_are_not_finite_are_data() -> None:
    sent = np.array([math.nan, math.inf, -math.inf], dtype=np.float32)

    received = Frame.pack(seq=1, step=0, time=0.0, layout=HASH, values=sent).unpack()

    assert np.array_equal(received, sent, equal_nan=True)


def test_an_empty_batch_is_a_heartbeat() -> None:
    assert decode_batch(encode_batch(batch())).frames == []


@pytest.mark.parametrize("version", [0, WIRE_VERSION + 1])
def test_another_version_is_refused_and_says_which_side_to_upgrade(version: int) -> None:
    error = refusal(encode_batch(batch(wire_version=version)))

    assert error.field == "wire_version"
    assert ("agent" if version == 0 else "server") in error.fix


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (batch(frame(2), frame(1)), "frames[1].seq"),
        (batch(frame(1), frame(1)), "frames[1].seq"),
        (batch(frame(0)), "frames[0].seq"),
        (batch(frame(1, step=-1)), "frames[0].step"),
        (batch(frame(1), frame(2, values=b"abc")), "frames[1].values"),
        (batch(rank=-1), "rank"),
    ],
)
def test_a_broken_batch_is_refused_by_the_name_of_its_field(broken: FrameBatch, field: str) -> None:
    assert refusal(encode_batch(broken)).field == field


@pytest.mark.parametrize("body", [b"", b"\xc1", b"{}", msgspec.msgpack.encode([1, 2])])
def test_a_body_that_is_no_batch_is_refused(body: bytes) -> None:
    assert refusal(body).field == "wire_version"


def test_a_newer_writers_fields_are_passed_over() -> None:
    sent = batch(frame(1))
    fields = msgspec.msgpack.decode(encode_batch(sent))
    (packed,) = fields["frames"]
    newer = fields | {"extra": 1, "health": fields["health"] | {"extra": 1}}

    read = decode_batch(msgspec.msgpack.encode(newer | {"frames": [[*packed, "extra"]]}))

    assert read == sent


def test_an_older_writers_absent_fields_have_their_defaults() -> None:
    fields = msgspec.msgpack.decode(encode_batch(batch()))
    older = fields | {"health": {"dropped": 2}}

    assert decode_batch(msgspec.msgpack.encode(older)).health == Health(dropped=2)


def test_an_older_agents_revision_has_no_flows() -> None:
    older = b'{"step": 3, "spec": {}}'

    assert msgspec.json.decode(older, type=SpecRevision) == SpecRevision(3, {}, flows=None)


JSON_MESSAGES = [
    RunDeclaration("p", "r", Layout((Series("", "loss", "value", 1),))),
    SpecRevision(0, {}),
    RunEnd("finished"),
    RunReceipt("0" * 32, {}, "/"),
    FramesReceipt(1, 1, 0, [Command("a", "describe")]),
]


@pytest.mark.parametrize("sent", JSON_MESSAGES, ids=lambda message: type(message).__name__)
def test_either_side_passes_over_the_others_newer_fields(sent: msgspec.Struct) -> None:
    newer = msgspec.to_builtins(sent) | {"extra": 1}
    for nested in ("layout", "commands"):
        if isinstance(newer.get(nested), dict):
            newer[nested] |= {"extra": 1}
        elif nested in newer:
            newer[nested] = [message | {"extra": 1} for message in newer[nested]]

    assert msgspec.json.decode(msgspec.json.encode(newer), type=type(sent)) == sent


@given(st.binary(max_size=200))
def test_no_body_whatever_raises_anything_else(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_batch(body)
