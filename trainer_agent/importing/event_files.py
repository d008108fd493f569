"""TensorBoard event files: their scalars, as a recording."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer_agent.importing.column_map import ColumnMap
from trainer_agent.importing.file_checks import cut_off
from trainer_agent.importing.points import Point, recording_of
from trainer_agent.importing.recording import Recording, RecordingError

# A record lies between its length with a checksum and a checksum of its own.
LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
HEADER_BYTES, FOOTER_BYTES = LENGTH.size + CHECKSUM.size, CHECKSUM.size


def event_files(folder: Path) -> list[Path]:
    """The event files in a folder."""
    return sorted(folder.glob("*tfevents*"))


def read_event_files(
    paths: Sequence[Path], columns: ColumnMap, *, partial: bool = False
) -> Recording:
    """The scalars of these files; of a step recorded twice, the later value.

    Args:
        paths: the files of one run, of which a resumed training writes several.
        columns: says which series their tags belong to.
        partial: whether a last record that is not whole is left out.

    Raises:
        RecordingError: if TensorBoard is not installed, a file is cut off, or none has scalars.
    """
    for path in paths:
        if not _is_whole(path) and not partial:
            raise cut_off(path, "in the midst of a record, as by a killed job")
    points = sorted(
        (point for path in paths for point in _points(path)), key=lambda point: point.time
    )
    if not points:
        raise RecordingError(f"{paths[0]} holds no scalars, or is no event file")
    names = list(dict.fromkeys(point.name for point in points))
    remarks = tuple(f"no tag fits {rule!r}" for rule in columns.unused(names))
    return recording_of(paths[0], points, columns, remarks=remarks)


def _is_whole(path: Path) -> bool:
    """Whether the file ends with a record: TensorBoard's reader passes over one that is cut."""
    size = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        # By the lengths alone: to check the sums takes as long as to read the file.
        while position + HEADER_BYTES <= size:
            file.seek(position)
            (length,) = LENGTH.unpack(file.read(LENGTH.size))
            position += HEADER_BYTES + length + FOOTER_BYTES
    return position == size


def _points(path: Path) -> Iterator[Point]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise RecordingError(
            "TensorBoard is not installed, which reads event files; pip install tensorboard"
        ) from error
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                numbers = make_ndarray(value.tensor).reshape(-1)
                if len(numbers):
                    yield Point(value.tag, event.step, event.wall_time, float(numbers[0]))
