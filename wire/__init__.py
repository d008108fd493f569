"""The contract between a training job's agent and the server: layouts, frames, declarations."""

from wire.absent import ABSENT, is_absent
from wire.declaration import Health, RunDeclaration, RunEnd, SpecRevision
from wire.decoding import JsonDecoder
from wire.errors import WireError
from wire.frame import MEDIA_TYPE, Frame, FrameBatch, decode_batch, encode_batch
from wire.layout import Layout, Series
from wire.receipts import AlertNotice, Command, FramesReceipt, RunReceipt
from wire.version import WIRE_VERSION

__all__ = [
    "ABSENT",
    "MEDIA_TYPE",
    "WIRE_VERSION",
    "AlertNotice",
    "Command",
    "Frame",
    "FrameBatch",
    "FramesReceipt",
    "Health",
    "JsonDecoder",
    "Layout",
    "RunDeclaration",
    "RunEnd",
    "RunReceipt",
    "Series",
    "SpecRevision",
    "WireError",
    "decode_batch",
    "encode_batch",
    "is_absent",
]
