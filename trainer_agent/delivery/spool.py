"""What waits for the server, on disk, so that it outlives the job."""

from __future__ import annotations

import sqlite3
from collections import deque
from pathlib import Path

import msgspec

from wire import Frame

_SCHEMA = """
create table if not exists frame (seq integer primary key, body blob not null);
create table if not exists note (name text primary key, body blob not null);
"""


class Spool:
    """Frames and notes of one run and rank. Used by one thread.

    Every frame and note is in the operating system's hands when the call returns: it survives the
    death of the process (kill -9), though not the loss of power. What is durable at the server is
    deleted with the next write: after a death some of it is sent once more.

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
        self.last_seq = self._number("select coalesce(max(seq), 0) from frame")
        self.dropped = 0
        self._notes = dict(self._db.execute("select name, body from note").fetchall())
        self._forgotten = self._deleted = 0
        self._index()

    def append(self, *frames: Frame) -> int:
        """Keep frames, in one transaction; returns how many of the oldest had to go for them."""
        bodies = [msgspec.msgpack.encode(frame) for frame in frames]
        rows = [(frame.seq, body) for frame, body in zip(frames, bodies, strict=True)]
        with self._db:
            self._db.execute("begin")
            self._db.executemany("insert or replace into frame values (?, ?)", rows)
            self._delete_forgotten()
        for seq, body in rows:
            self._note_held(seq, len(body))
        return self._make_room() if self.size_bytes > self._limit_bytes else 0

    def take_over(self, other: Spool) -> None:
        """Keep what another spool of the same run and rank holds, too."""
        for seq, body in other._db.execute("select seq, body from frame order by seq"):
            self._db.execute("insert or ignore into frame values (?, ?)", (seq, body))
            self.last_seq = max(self.last_seq, seq)
        self._index()
        for name, body in other.notes("").items():
            if name not in self._notes:
                self.note(name, body)
        if self.size_bytes > self._limit_bytes:
            self.dropped += self._make_room()

    def read(self, *, after: int, max_frames: int, max_bytes: int) -> list[Frame]:
        """The next frames in order past seq `after`: at least one where there is one."""
        if not self._held or self._held[-1][0] <= after:
            return []
        rows = self._db.execute(
            "select body from frame where seq > ? order by seq limit ?",
            (max(after, self._forgotten), max_frames),
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
        while self._held and self._held[0][0] <= mark:
            self._forget_oldest()

    def set_aside(self, seq: int) -> None:
        """Forget one frame that the server will never take."""
        self._db.execute("delete from frame where seq = ?", (seq,))
        self._index()

    @property
    def oldest(self) -> int:
        """Lowest seq held, 0 when empty."""
        return self._held[0][0] if self._held else 0

    def note(self, name: str, body: bytes) -> None:
        """Keep a named message beside the frames, replacing one of the same name."""
        self._db.execute("insert or replace into note values (?, ?)", (name, body))
        self._notes[name] = body

    def notes(self, prefix: str) -> dict[str, bytes]:
        """The messages whose name starts with `prefix`, by name, in the order of names."""
        return {name: self._notes[name] for name in sorted(self._notes) if name.startswith(prefix)}

    def forget_note(self, name: str) -> None:
        """Drop one named message."""
        if self._notes.pop(name, None) is not None:
            self._db.execute("delete from note where name = ?", (name,))

    def close(self) -> None:
        """Close the file and keep it."""
        self._delete_forgotten()
        self._db.close()

    def delete(self) -> None:
        """Close the file and remove it, with what SQLite keeps beside it."""
        self._db.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _index(self) -> None:
        """Learn from the file which frames it holds, from the oldest on, and their sizes."""
        self._delete_forgotten()
        rows = self._db.execute("select seq, length(body) from frame order by seq")
        self._held: deque[tuple[int, int]] = deque(rows)
        self.size_bytes = sum(length for _, length in self._held)

    def _note_held(self, seq: int, length: int) -> None:
        self.last_seq = max(self.last_seq, seq)
        if self._held and seq <= self._held[-1][0]:
            self._index()
            return
        self._held.append((seq, length))
        self.size_bytes += length

    def _make_room(self) -> int:
        held = len(self._held)
        while self.size_bytes > self._limit_bytes:
            self._forget_oldest()
        self._delete_forgotten()
        return held - len(self._held)

    def _forget_oldest(self) -> None:
        self._forgotten, length = self._held.popleft()
        self.size_bytes -= length

    def _delete_forgotten(self) -> None:
        if self._forgotten > self._deleted:
            self._db.execute("delete from frame where seq <= ?", (self._forgotten,))
            self._deleted = self._forgotten

    def _number(self, query: str, *values: int) -> int:
        return int(self._db.execute(query, values).fetchone()[0])
