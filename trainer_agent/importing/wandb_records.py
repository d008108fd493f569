"""The records of a W&B transaction log: protobuf messages in the framing of a LevelDB log.

Read without the ``wandb`` package, which is large, and whose reader stops at a record that a
killed job has left unfinished. W&B's service writes the file in blocks of 32 KiB. A record is cut
into fragments, none of which crosses the end of a block, each behind a header: CRC-32 of kind and
content (4 bytes), length (2) and kind (1), little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from trainer_agent.importing.file_checks import cut_off
from trainer_agent.importing.recording import RecordingError

# Four letters, a magic number and the format's version.
FILE_HEADER = struct.Struct("<4sHB")
IDENT, MAGIC, VERSION = b":W&B", 0xBEE1, 0
BLOCK_BYTES = 1 << 15
FRAGMENT_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

Field = tuple[int, int | bytes]


def read_records(path: Path, *, partial: bool = False) -> Iterator[bytes]:
    """The records of a log, in their order.

    Args:
        path: the ``run-*.wandb`` file.
        partial: whether a last record that is not whole is left out.

    Raises:
        RecordingError: if the file is no such log, is damaged, or is cut off.
    """
    data = path.read_bytes()
    _require_header(path, data)
    position, record = FILE_HEADER.size, b""
    while position < len(data):
        room = BLOCK_BYTES - position % BLOCK_BYTES
        if room < FRAGMENT_HEADER.size:
            position += room  # too little for a header: the rest of a block is padding
            continue
        start = position + FRAGMENT_HEADER.size
        end = start
        if start <= len(data):
            checksum, length, kind = FRAGMENT_HEADER.unpack_from(data, position)
            end = start + length
        if end > len(data) or start > len(data):
            break
        content = data[start:end]
        if zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
            raise RecordingError(f"{path} is damaged at byte {position}; copy it again")
        position = end
        record = content if kind in (FULL, FIRST) else record + content
        if kind in (FULL, LAST):
            yield record
            record = b""
    if (position < len(data) or record) and not partial:
        raise cut_off(path, "in the midst of its last record, as by a killed job")


def _require_header(path: Path, data: bytes) -> None:
    header = FILE_HEADER.unpack_from(data) if len(data) >= FILE_HEADER.size else None
    if header is None or header[:2] != (IDENT, MAGIC):
        raise RecordingError(f"{path} is no W&B log: it does not begin as one; copy it again")
    if header[2] != VERSION:
        raise RecordingError(
            f"{path} is a W&B log of version {header[2]}, and version {VERSION} is read here"
        )


def fields(message: bytes) -> Iterator[Field]:
    """Numbers and values of a protobuf message's fields: varints as int, all else as bytes.

    Raises:
        ValueError: if the bytes are no such message.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field of kind {kind}")
        if position + size > len(message):
            raise ValueError("a field longer than its message")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number in 7 bits a byte, and the position behind it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("a number without an end")
