"""A batch on its way from the endpoint to the writer."""

from __future__ import annotations

import msgspec

from wire import FrameBatch


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A checked batch, the run it is for and when it came."""

    run_id: str
    received_at: float
    batch: FrameBatch


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def seal(envelope: Envelope) -> bytes:
    """The envelope as a bus message."""
    return _encoder.encode(envelope)


def unseal(body: bytes) -> Envelope:
    """The envelope of a bus message; raises `msgspec.DecodeError` for anything else."""
    return _decoder.decode(body)
