"""The folder of spools: one of each live agent, and those that dead agents left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainer_agent.delivery import messages
from trainer_agent.delivery.spool import Spool

try:
    import fcntl
except ImportError:  # no POSIX locks here: spools of dead jobs then stay where they are
    fcntl = None  # type: ignore[assignment]

ORPHANS_LIMIT_BYTES = 512 * 1024 * 1024
# A POSIX lock does not exclude the process that holds it, so the process keeps account itself.
_locks: dict[Path, IO[bytes]] = {}


def open_spool(folder: Path, *, server: str, run_id: str, rank: int, limit_bytes: int) -> Spool:
    """A locked spool for this process, with what an earlier process of the same run left."""
    path = folder / f"{run_id}-{rank}-{os.getpid()}.spool"
    while path in _locks:  # an agent that was closed in haste may still be at it
        path = path.with_stem(f"{path.stem}-again")
    _lock(path)
    spool = Spool(path, limit_bytes=limit_bytes)
    messages.put_origin(spool, server=server, run_id=run_id, rank=rank)
    for orphan in folder.glob(f"{run_id}-{rank}-*.spool"):
        # The run's frames must arrive in their order: these before this process's.
        if fcntl is not None and orphan not in _locks and _lock(orphan):
            _merge(spool, Spool(orphan, limit_bytes=limit_bytes), server)
    messages.drop_end(spool)  # the run goes on
    return spool


def _merge(spool: Spool, orphan: Spool, server: str) -> None:
    origin = messages.origin(orphan)
    if origin is None or origin[0] != server:
        release(orphan)
        return
    spool.adopt(orphan)
    remove(orphan)


def adopt_orphans(folder: Path, *, server: str, limit_bytes: int) -> Iterator[Spool]:
    """Spools for `server` whose process is gone, newest first, each locked for the caller.

    Orphans of any server past `ORPHANS_LIMIT_BYTES` in all are removed: a machine whose jobs
    never reach a server must not fill its disk.
    """
    total_bytes = 0
    for path in sorted(folder.glob("*.spool"), key=_modified, reverse=True):
        if fcntl is None or path in _locks or not _lock(path):
            continue
        if not path.exists():  # its owner delivered and removed it before it gave up the lock
            _unlock(path)
            continue
        total_bytes += path.stat().st_size
        spool = Spool(path, limit_bytes=limit_bytes)
        origin = messages.origin(spool)
        if origin is None or total_bytes > ORPHANS_LIMIT_BYTES:
            remove(spool)
        elif origin[0] == server:
            yield spool
        else:
            release(spool)


def release(spool: Spool) -> None:
    """Close a spool and leave it for the next agent."""
    try:
        spool.close()
    finally:  # a folder that the job has deleted meanwhile
        _unlock(spool.path)


def remove(spool: Spool) -> None:
    """Delete a spool whose content is delivered."""
    try:
        spool.delete()
        # Before the lock is given up, or a lock file that another process has just taken would go.
        _lock_path(spool.path).unlink(missing_ok=True)
    finally:
        _unlock(spool.path)


def forget_parent_locks() -> None:
    """Forget, after a fork, the locks of the parent: a child inherits none of them."""
    _locks.clear()


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path) -> bool:
    lock = _lock_path(path).open("ab")
    try:
        if fcntl is not None:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return False
    _locks[path] = lock
    return True


def _unlock(path: Path) -> None:
    lock = _locks.pop(path, None)
    if lock is not None:
        lock.close()
