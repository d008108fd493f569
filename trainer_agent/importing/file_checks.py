"""What can be wrong with a file before its format is looked at."""

from __future__ import annotations

from pathlib import Path

from trainer_agent.importing.recording import RecordingError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
GZIP = b"\x1f\x8b"


def require_content(path: Path) -> None:
    """Raise `RecordingError` where a file is absent, empty, a git LFS pointer or compressed."""
    if not path.exists():
        raise RecordingError(f"there is no {path}")
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if not start:
        raise RecordingError(f"{path} is empty; copy it again, or let its program finish")
    if start == LFS_POINTER:
        raise RecordingError(
            f"{path} is a git LFS pointer and not the file itself; run 'git lfs pull' in its clone"
        )
    if start.startswith(GZIP):
        raise RecordingError(f"{path} is compressed; run 'gunzip' on it first")


def cut_off(path: Path, where: str) -> RecordingError:
    """The error for a file that ends too early."""
    return RecordingError(
        f"{path} is cut off {where}; copy it again, or import what it holds with --partial"
    )
