"""One sampled step of one rank, or the scalars of several; and the batch in which frames travel."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.declaration import Health
from wire.decoding import MsgpackDecoder
from wire.errors import WireError
from wire.version import WIRE_VERSION

MEDIA_TYPE = "application/vnd.evenkeel.frames+msgpack"
MAX_FRAMES = 4096


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """The values of one sampled optimizer step, or the scalars of several steps (`wire.steps`).

    Attributes:
        seq: number of this frame within (run, rank), never reused: from 1 without holes, except
            that a process that resumes a run begins past all earlier numbers.
        step: optimizer step, from 0; the last one where there are several.
        time: seconds since the epoch when the step ended.
        layout: `Layout.hash` of the layout that says what the values are.
        values: little-endian float32, one per value of the layout, and as many again for each
            further step. NaN and Inf are data; `wire.ABSENT` stands where a step has no such
            value.
    """

    seq: int
    step: int
    time: float
    layout: str
    values: bytes

    @classmethod
    def pack(
        cls, *, seq: int, step: int, time: float, layout: str, values: NDArray[np.float32]
    ) -> Frame:
        """Pack a float32 vector, shape (values,)."""
        packed = np.ascontiguousarray(values, dtype="<f4").tobytes()
        return cls(seq=seq, step=step, time=time, layout=layout, values=packed)

    def unpack(self) -> NDArray[np.float32]:
        """The values as a read-only float32 vector, shape (values,)."""
        return np.frombuffer(self.values, dtype="<f4")


class FrameBatch(msgspec.Struct, frozen=True):
    """Frames of one rank, in ascending `seq`; empty is a heartbeat that asks for the watermark.

    Attributes:
        rank: which process of the job; 0 where there is one.
        oldest: lowest `seq` in the agent's spool: every frame below is durable or was given up.
        frames: at most 4,096.
        health: the agent's own counters.
        wire_version: the contract that the writer speaks.
        epoch: `RunReceipt.epoch` of the writer's claim; 0 where it has none.
    """

    rank: int
    oldest: int
    frames: list[Frame]
    health: Health
    wire_version: int = WIRE_VERSION
    epoch: int = 0


class _Head(msgspec.Struct):
    """The one field of a batch that every version can read."""

    wire_version: int


_encoder = msgspec.msgpack.Encoder()
_head_decoder = MsgpackDecoder(_Head, "a batch of any version", fix="send wire.encode_batch(batch)")
_decoder = MsgpackDecoder(
    FrameBatch,
    "a batch of frames",
    fix="send wire.encode_batch(batch), or upgrade the agent",
)


def encode_batch(batch: FrameBatch) -> bytes:
    """The batch as the body of a request."""
    return _encoder.encode(batch)


def decode_batch(body: bytes) -> FrameBatch:
    """Read a request's body.

    Raises:
        WireError: naming the field, if the body is not a batch of this version or its frames
            are out of order, negative, or not whole float32 values.
    """
    _require_version(body)
    batch = _decoder.decode(body)
    _require_order(batch)
    return batch


def _require_version(body: bytes) -> None:
    # First, so that a batch of another version is named as one, whatever else it holds.
    try:
        version = _head_decoder.decode(body).wire_version
    except WireError as error:
        raise WireError(
            f"the body does not say its wire_version: {error.__cause__}",
            field="wire_version",
            fix=error.fix,
        ) from error
    if version != WIRE_VERSION:
        older = "agent" if version < WIRE_VERSION else "server"
        raise WireError(
            f"the agent speaks wire version {version}, the server {WIRE_VERSION}",
            field="wire_version",
            fix=f"upgrade evenkeel where the {older} runs",
        )


def _require_order(batch: FrameBatch) -> None:
    if batch.rank < 0:
        raise WireError("a rank is not negative", field="rank", fix="count ranks from 0")
    if len(batch.frames) > MAX_FRAMES:
        raise WireError(
            f"{len(batch.frames)} frames in one batch",
            field="frames",
            fix=f"send at most {MAX_FRAMES} frames a batch",
        )
    previous = 0
    for index, frame in enumerate(batch.frames):
        if frame.seq <= previous:
            raise WireError(
                f"seq {frame.seq} follows {previous}",
                field=f"frames[{index}].seq",
                fix="number frames from 1 and send them in ascending order",
            )
        if frame.step < 0:
            raise WireError(
                f"step {frame.step} is negative",
                field=f"frames[{index}].step",
                fix="count steps from 0",
            )
        if len(frame.values) % 4:
            raise WireError(
                f"{len(frame.values)} bytes are not whole float32 values",
                field=f"frames[{index}].values",
                fix="pack the values as little-endian float32",
            )
        previous = frame.seq
