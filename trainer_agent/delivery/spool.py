"""What waits for the server, on disk, so that it outlives the job."""

from __future__ import annotations

import sqlite3
from collections import deque
from pathlib import Path

import msgspec

from trainer_agent.delivery.fork_lock import no_fork
from wire import Frame

# Agents of other versions may adopt the file, so the names of its tables stay.
_SCHEMA = """
create table if not exists frame (seq integer primary key, body blob not null);
create table if not exists note (name text primary key, body blob not null);
"""


class Spool:
    """Frames and messages of one run and rank. Used by one thread.

    Every frame and message is in the operating system's hands when the call returns: it survives
    the death of the process (kill -9), though not the loss of power. What is durable at the
    server is deleted with the next write: after a death some of it is sent once more.

    Attributes:
        path: the file.
        size_bytes: bytes of the frames in it.
        last_seq: the highest number that this object, or the file before it, ever had.
        dropped: frames that found no room when another spool was adopted.
    """

    @no_fork
    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        # Only the sender's thread works on it, but the thread that closes it may be another.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        # A power cut ends the job as well; to wait for the disk would slow down every job.
        self._db.execute("pragma synchronous = off")
        self._db.executescript(_SCHEMA)
        (self.last_seq,) = self._db.execute("select coalesce(max(seq), 0) from frame").fetchone()
        self.dropped = 0
        self._messages = dict(self._db.execute("select name, body from note").fetchall())
        # Frames up to `_dropped_to` are no longer read, those up to `_deleted_to` are deleted.
        self._dropped_to = self._deleted_to = 0
        self._load_index()

    @no_fork
    def append(self, *frames: Frame) -> int:
        """Keep frames, in one transaction; returns how many of the oldest were dropped for them."""
        bodies = [msgspec.msgpack.encode(frame) for frame in frames]
        rows = [(frame.seq, body) for frame, body in zip(frames, bodies, strict=True)]
        with self._db:
            self._db.execute("begin")
            self._db.executemany("insert or replace into frame values (?, ?)", rows)
            self._delete_dropped()
        for seq, body in rows:
            self._add_to_index(seq, len(body))
        return self._make_room() if self.size_bytes > self._limit_bytes else 0

    @no_fork
    def adopt(self, other: Spool) -> None:
        """Keep what another spool of the same run and rank holds, too."""
        for seq, body in other._db.execute("select seq, body from frame order by seq"):
            self._db.execute("insert or ignore into frame values (?, ?)", (seq, body))
            self.last_seq = max(self.last_seq, seq)
        self._load_index()
        for name, body in other.messages("").items():
            if name not in self._messages:
                self.put_message(name, body)
        if self.size_bytes > self._limit_bytes:
            self.dropped += self._make_room()

    @no_fork
    def read(self, *, after: int, max_frames: int, max_bytes: int) -> list[Frame]:
        """The next frames in order past number `after`: at least one where there is one."""
        if not self._index or self._index[-1][0] <= after:
            return []
        rows = self._db.execute(
            "select body from frame where seq > ? order by seq limit ?",
            (max(after, self._dropped_to), max_frames),
        )
        frames: list[Frame] = []
        total_bytes = 0
        for (body,) in rows:
            total_bytes += len(body)
            if frames and total_bytes > max_bytes:
                break
            frames.append(msgspec.msgpack.decode(body, type=Frame))
        return frames

    def drop_to(self, watermark: int) -> None:
        """Drop what is durable at the server: every frame up to and including that number."""
        while self._index and self._index[0][0] <= watermark:
            self._drop_oldest()

    @no_fork
    def drop(self, seq: int) -> None:
        """Drop one frame that the server will never take."""
        self._db.execute("delete from frame where seq = ?", (seq,))
        self._load_index()

    @property
    def oldest(self) -> int:
        """The lowest number in the spool, 0 where it is empty."""
        return self._index[0][0] if self._index else 0

    @no_fork
    def put_message(self, name: str, body: bytes) -> None:
        """Keep a message beside the frames, replacing one of the same name."""
        self._db.execute("insert or replace into note values (?, ?)", (name, body))
        self._messages[name] = body

    def messages(self, prefix: str) -> dict[str, bytes]:
        """The messages whose names start with `prefix`, by name, in the order of names."""
        names = sorted(name for name in self._messages if name.startswith(prefix))
        return {name: self._messages[name] for name in names}

    @no_fork
    def drop_message(self, name: str) -> None:
        """Drop one message, where there is one of that name."""
        if self._messages.pop(name, None) is not None:
            self._db.execute("delete from note where name = ?", (name,))

    @no_fork
    def close(self) -> None:
        """Close the file and leave it in place."""
        try:
            self._delete_dropped()
        finally:
            self._db.close()

    @no_fork
    def delete(self) -> None:
        """Close the file and remove it, with what SQLite keeps beside it."""
        self._db.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _load_index(self) -> None:
        """Read from the file which frames it holds, oldest first, and their sizes."""
        self._delete_dropped()
        rows = self._db.execute("select seq, length(body) from frame order by seq")
        self._index: deque[tuple[int, int]] = deque(rows)
        self.size_bytes = sum(length for _, length in self._index)

    def _add_to_index(self, seq: int, length: int) -> None:
        self.last_seq = max(self.last_seq, seq)
        if self._index and seq <= self._index[-1][0]:
            self._load_index()
            return
        self._index.append((seq, length))
        self.size_bytes += length

    def _make_room(self) -> int:
        n_before = len(self._index)
        while self.size_bytes > self._limit_bytes:
            self._drop_oldest()
        self._delete_dropped()
        return n_before - len(self._index)

    def _drop_oldest(self) -> None:
        self._dropped_to, length = self._index.popleft()
        self.size_bytes -= length

    def _delete_dropped(self) -> None:
        if self._dropped_to > self._deleted_to:
            self._db.execute("delete from frame where seq <= ?", (self._dropped_to,))
            self._deleted_to = self._dropped_to
