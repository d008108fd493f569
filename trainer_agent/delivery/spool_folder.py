"""The folder of spools: one per live agent, and what dead ones left behind."""

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
# POSIX locks do not exclude the process that holds them, so that must be remembered.
_held: dict[Path, IO[bytes]] = {}


def open_own(folder: Path, *, server: str, run_id: str, rank: int, limit_bytes: int) -> Spool:
    """A locked spool for this process, with what an earlier process of the same run left."""
    path = folder / f"{run_id}-{rank}-{os.getpid()}.spool"
    while path in _held:  # an agent that was closed in haste may still be at it
        path = path.with_stem(f"{path.stem}-again")
    _lock(path)
    spool = Spool(path, limit_bytes=limit_bytes)
    messages.keep_origin(spool, server=server, run_id=run_id, rank=rank)
    for left in folder.glob(f"{run_id}-{rank}-*.spool"):
        # The run's frames must arrive in their order: these before this process' own.
        if fcntl is not None and left not in _held and _lock(left):
            _take_over(spool, Spool(left, limit_bytes=limit_bytes), server)
    messages.forget_end(spool)  # the run goes on
    return spool


def _take_over(spool: Spool, left: Spool, server: str) -> None:
    belongs = messages.origin(left)
    if belongs is None or belongs[0] != server:
        leave(left)
        return
    spool.take_over(left)
    remove(left)


def adopt_orphans(folder: Path, *, server: str, limit_bytes: int) -> Iterator[Spool]:
    """Spools for `server` whose process is gone, newest first, each locked for the caller.

    Orphans of any server past `ORPHANS_LIMIT_BYTES` in all are removed: a machine whose jobs
    never reach a server must not fill its disk.
    """
    total = 0
    for path in sorted(folder.glob("*.spool"), key=_modified, reverse=True):
        if fcntl is None or path in _held or not _lock(path):
            continue
        if not path.exists():  # its owner has just delivered and removed it
            _unlock(path)
            continue
        total += path.stat().st_size
        spool = Spool(path, limit_bytes=limit_bytes)
        belongs = messages.origin(spool)
        if belongs is None or total > ORPHANS_LIMIT_BYTES:
            remove(spool)
        elif belongs[0] == server:
            yield spool
        else:
            leave(spool)


def leave(spool: Spool) -> None:
    """Close a spool for whoever finds it next."""
    spool.close()
    _unlock(spool.path)


def remove(spool: Spool) -> None:
    """Delete a spool whose content is delivered."""
    spool.delete()
    _lock_path(spool.path).unlink(missing_ok=True)
    _unlock(spool.path)


def forget_inherited() -> None:
    """After a fork: what the parent holds is the parent's."""
    _held.clear()


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
    _held[path] = lock
    return True


def _unlock(path: Path) -> None:
    lock = _held.pop(path, None)
    if lock is not None:
        lock.close()
