"""What waits for the server, on disk, so that it outlives the job."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from wire import Frame

_SCHEMA = """
create table if not exists frame (seq integer primary key, body blob not null);
create table if not exists note (name text primary key, body blob not null);
"""


class Spool:
    """Frames and notes of one run and rank. Used by one thread.

    Every write is in the operating system's hands when the call returns: it survives the
    death of the process (kill -9), though not the loss of power.

    Attributes:
        path: the file.
        size_bytes: bytes of the frames held.
        last_seq: highest seq ever kept by this object, or found in the file.
        dropped: frames that found no room when another spool was taken over.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        # Only the sender thread works on it, but the thread that closes it may be another.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = off")
        self._db.executescript(_SCHEMA)
        self.size_bytes = self._number("select coalesce(sum(length(body)), 0) from frame")
        self.last_seq = self._number("select coalesce(max(seq), 0) from frame")
        self.dropped = 0

    def append(self, frame: Frame) -> int:
        """Keep a frame; returns how many of the oldest had to go for it."""
        body = msgspec.msgpack.encode(frame)
        self._db.execute("insert or replace into frame values (?, ?)", (frame.seq, body))
        self.size_bytes += len(body)
        self.last_seq = max(self.last_seq, frame.seq)
        return self._make_room() if self.size_bytes > self._limit_bytes else 0

    def take_over(self, other: Spool) -> None:
        """Keep what another spool of the same run and rank holds, too."""
        for seq, body in other._db.execute("select seq, body from frame order by seq"):
            added = self._db.execute("insert or ignore into frame values (?, ?)", (seq, body))
            self.size_bytes += len(body) * added.rowcount
            self.last_seq = max(self.last_seq, seq)
        for name, body in other.notes("").items():
            self._db.execute("insert or ignore into note values (?, ?)", (name, body))
        if self.size_bytes > self._limit_bytes:
            self.dropped += self._make_room()

    def read(self, *, after: int, max_frames: int, max_bytes: int) -> list[Frame]:
        """The next frames in order past seq `after`: at least one where there is one."""
        rows = self._db.execute(
            "select body from frame where seq > ? order by seq limit ?", (after, max_frames)
        )
        frames: list[Frame] = []
        total = 0
        for (body,) in rows:
            total += len(body)
            if frames and total > max_bytes:
                break
            frames.append(msgspec.msgpack.decode(body, type=Frame))
        return frames

    def drop_to(self, mark: int) -> None:
        """Forget what is durable: every frame up to and including seq `mark`."""
        freed = self._number(
            "select coalesce(sum(length(body)), 0) from frame where seq <= ?", mark
        )
        if freed:
            self._db.execute("delete from frame where seq <= ?", (mark,))
            self.size_bytes -= freed

    def set_aside(self, seq: int) -> None:
        """Forget one frame that the server will never take."""
        self.size_bytes -= self._number(
            "select coalesce(sum(length(body)), 0) from frame where seq = ?", seq
        )
        self._db.execute("delete from frame where seq = ?", (seq,))

    @property
    def oldest(self) -> int:
        """Lowest seq held, 0 when empty."""
        return self._number("select coalesce(min(seq), 0) from frame")

    def note(self, name: str, body: bytes) -> None:
        """Keep a named message beside the frames, replacing one of the same name."""
        self._db.execute("insert or replace into note values (?, ?)", (name, body))

    def notes(self, prefix: str) -> dict[str, bytes]:
        """The messages whose name starts with `prefix`, by name, in the order of names."""
        rows = self._db.execute(
            "select name, body from note where substr(name, 1, ?) = ? order by name",
            (len(prefix), prefix),
        )
        return {str(name): bytes(body) for name, body in rows}

    def forget_note(self, name: str) -> None:
        """Drop one named message."""
        self._db.execute("delete from note where name = ?", (name,))

    def close(self) -> None:
        """Close the file and keep it."""
        self._db.close()

    def delete(self) -> None:
        """Close the file and remove it, with what SQLite keeps beside it."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _make_room(self) -> int:
        excess = self.size_bytes - self._limit_bytes
        dropped, freed, last = 0, 0, 0
        for seq, length in self._db.execute("select seq, length(body) from frame order by seq"):
            if freed >= excess:
                break
            dropped, freed, last = dropped + 1, freed + length, seq
        self._db.execute("delete from frame where seq <= ?", (last,))
        self.size_bytes -= freed
        return dropped

    def _number(self, query: str, *values: int) -> int:
        return int(self._db.execute(query, values).fetchone()[0])
