"""Check what the wire contract's types cannot: sizes, ranges, and declared layouts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from server.errors import ConflictingFrame, InvalidField, UnknownLayout, WrongSize
from server.ingest.body import from_wire, require_text
from server.runs.service import require_tags
from wire import (
    AGE,
    WIRE_VERSION,
    FrameBatch,
    Health,
    Layout,
    RunDeclaration,
    WireError,
    Writer,
    first_step,
)
from wire.frame import Frame

MAX_NAME = 200
MAX_VERSION = 64
MAX_SERIES_KEY = 300
MAX_INTEGER = 2**53  # past it, JSON readers lose digits
MAX_SEQ = 2**52  # a run that is resumed numbers its frames by the clock, and so until 2109
MAX_RANK = 2**31 - 1
MAX_HOST = 255


def require_declaration(declaration: RunDeclaration) -> None:
    """Raise `InvalidField` unless the declaration can be stored."""
    if declaration.wire_version != WIRE_VERSION:
        raise InvalidField(
            f"the agent speaks wire version {declaration.wire_version}, the server {WIRE_VERSION}",
            field="wire_version",
            fix="run the same version of evenkeel in the job and on the server",
        )
    for field in ("project", "name"):
        _require_name(getattr(declaration, field), field)
    require_tags(declaration.tags)
    _require_time(declaration.started_at, "started_at")
    if len(declaration.agent_version) > MAX_VERSION:
        raise InvalidField("agent_version is too long", field="agent_version", fix="shorten it")
    _require_rank(declaration.rank)
    if declaration.writer is not None:
        _require_writer(declaration.writer)
    require_layout(declaration.layout)


def _require_rank(rank: int) -> None:
    if not 0 <= rank <= MAX_RANK:
        raise InvalidField(f"rank {rank}", field="rank", fix="count ranks from 0")


def _require_writer(writer: Writer) -> None:
    for field, text, longest in (("id", writer.id, 64), ("host", writer.host, MAX_HOST)):
        if len(text) > longest or (field == "id" and not text):
            raise InvalidField(
                f"the writer's {field} has {len(text)} characters",
                field=f"writer.{field}",
                fix=f"send {'1 to ' * (field == 'id')}{longest} characters at most",
            )
    if not 0 <= writer.pid <= MAX_INTEGER:
        raise InvalidField(
            f"pid {writer.pid}", field="writer.pid", fix="send the number of the process"
        )
    _require_time(writer.since, "writer.since")


def require_layout(layout: Layout) -> None:
    """Raise `InvalidField` unless the layout is one that frames can follow."""
    try:
        layout.validate()
    except WireError as error:
        raise from_wire(error) from error
    for index, series in enumerate(layout.series):
        if len(series.key) > MAX_SERIES_KEY:
            raise InvalidField(
                f"a series' key is longer than {MAX_SERIES_KEY} characters",
                field=f"layout.series[{index}]",
                fix="shorten stack, site or quantity",
            )


def require_batch(batch: FrameBatch, layouts: Mapping[str, Layout]) -> None:
    """Raise unless every frame is of a declared layout, of its size, and in range."""
    _require_rank(batch.rank)
    first = batch.frames[0].seq if batch.frames else MAX_SEQ
    if not 0 <= batch.oldest <= first:
        raise InvalidField(
            f"oldest is {batch.oldest}, beyond the first frame's seq or what any rank can send",
            field="oldest",
            fix="send the lowest seq in the spool",
        )
    if not 0 <= batch.epoch <= MAX_INTEGER:
        raise InvalidField(
            f"epoch is {batch.epoch}", field="epoch", fix="send the receipt's epoch, or 0"
        )
    _require_health(batch.health)
    for index, frame in enumerate(batch.frames):
        _require_frame(frame, f"frames[{index}]", layouts)


def require_same(frames: Sequence[Frame], stored: Mapping[int, tuple[int, bytes]]) -> None:
    """Raise `ConflictingFrame` where a frame is not the one that is stored under its number."""
    for index, frame in enumerate(frames):
        if stored.get(frame.seq, (frame.step, frame.values)) != (frame.step, frame.values):
            raise ConflictingFrame(
                f"frame {frame.seq} is stored already, with another step or other values",
                field=f"frames[{index}].seq",
                fix="number the frames of each process past those of the one before",
            )


def _require_health(health: Health) -> None:
    if not 0 <= health.overhead < math.inf:
        raise InvalidField(
            f"overhead is {health.overhead}",
            field="health.overhead",
            fix="send a share of the job's time, 0 to 1",
        )
    if not -1 <= health.fresh_optimizer_at < 2**53:
        raise InvalidField(
            f"fresh_optimizer_at is {health.fresh_optimizer_at}",
            field="health.fresh_optimizer_at",
            fix="send the number of a step, or -1",
        )
    for field in ("first_failure", "burst", "burst_note"):
        require_text(getattr(health, field), f"health.{field}")
    for field in ("silent", "stopped", "dropped_sites", "notes"):
        for index, name in enumerate(getattr(health, field)):
            require_text(name, f"health.{field}[{index}]")


def _require_frame(frame: Frame, path: str, layouts: Mapping[str, Layout]) -> None:
    layout = layouts.get(frame.layout)
    if layout is None:
        raise UnknownLayout(
            f"layout {frame.layout[:40]!r} is not declared for this run",
            field=f"{path}.layout",
            fix="declare the run again with PUT /api/v1/runs/{run_id}, then resend",
        )
    n_steps, remainder = divmod(len(frame.values), 4 * layout.size)
    if remainder or not n_steps or (n_steps > 1 and not layout.packs_steps):
        raise WrongSize(
            f"{len(frame.values) // 4} values, its layout holds {layout.size}",
            field=f"{path}.values",
            fix="send one float32 for each value of the layout, in its order",
        )
    if layout.packs_steps:
        _require_steps(frame, layout, path)
    for field, value, most in (("seq", frame.seq, MAX_SEQ), ("step", frame.step, MAX_INTEGER)):
        if value > most:
            raise InvalidField(
                f"{field} {value} is out of range", field=f"{path}.{field}", fix="count from 0"
            )
    _require_time(frame.time, f"{path}.time")


def _require_steps(frame: Frame, layout: Layout, path: str) -> None:
    if first_step(frame, layout) < 0:
        raise InvalidField(
            f"more steps than lie between 0 and {frame.step}",
            field=f"{path}.values",
            fix="send the steps up to the frame's own, counted from 0",
        )
    ages = frame.unpack()[:: layout.size]
    if not (np.isfinite(ages).all() and (ages >= 0).all()):
        raise InvalidField(
            f"{AGE.key} is negative or not finite",
            field=f"{path}.values",
            fix="send the seconds from each step to the frame's last",
        )


def _require_name(value: str, field: str) -> None:
    if not value.strip() or len(value) > MAX_NAME or "\n" in value:
        raise InvalidField(
            f"{field} {value[:40]!r} is not one line of 1 to {MAX_NAME} characters",
            field=field,
            fix=f"use one line of 1 to {MAX_NAME} characters",
        )


def _require_time(value: float, field: str) -> None:
    # Beyond it the unit is wrong: a time in milliseconds is greater since 2001.
    if not (math.isfinite(value) and abs(value) < 1e12):
        raise InvalidField(
            f"{field} is {value}", field=field, fix="send seconds since the epoch as a float"
        )
