"""The contract between a training job's agent and the server: layouts, frames, declarations."""

from wire.absent import ABSENT, is_absent
from wire.declaration import Health, RunDeclaration, RunEnd, SpecRevision, Writer
from wire.decoding import JsonDecoder
from wire.errors import WireError
from wire.frame import MAX_FRAMES, MEDIA_TYPE, Frame, FrameBatch, decode_batch, encode_batch
from wire.layout import AGE, Layout, Series
from wire.receipts import AlertNotice, Command, FramesReceipt, RunReceipt
from wire.steps import StepValues, first_step, pack_steps, scalars_of, steps_layout, unpack_steps
from wire.version import WIRE_VERSION

__all__ = [
    "ABSENT",
    "AGE",
    "MAX_FRAMES",
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
    "StepValues",
    "WireError",
    "Writer",
    "decode_batch",
    "encode_batch",
    "first_step",
    "is_absent",
    "pack_steps",
    "scalars_of",
    "steps_layout",
    "unpack_steps",
]
