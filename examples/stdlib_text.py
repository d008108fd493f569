"""Real text that every machine has: the sources of Python's standard library, as bytes."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

MEGABYTE = 1 << 20


def stdlib_bytes(limit: int = 8 * MEGABYTE) -> Tensor:
    """The library's top-level modules and packages in a fixed order, as uint8 (bytes,)."""
    text = bytearray()
    for path in sorted(_sources(Path(sysconfig.get_path("stdlib")))):
        text += path.read_bytes()
        if len(text) >= limit:
            break
    return torch.frombuffer(text[:limit], dtype=torch.uint8)


def batches(
    text: Tensor, *, batch: int, context: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), each (batch, context) of int64; the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - context - 1, (batch, 1), generator=draw)
        windows = text[starts + torch.arange(context + 1)].long()
        yield windows[:, :-1], windows[:, 1:]


def _sources(root: Path) -> Iterator[Path]:
    for path in root.rglob("*.py"):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            yield path
