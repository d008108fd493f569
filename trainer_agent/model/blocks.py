"""The columns of blocks of a model: the longest rows of alike modules that hold matrices."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from torch import nn


@dataclass(frozen=True, slots=True)
class Column:
    """Blocks of one container, by path, in the container's order."""

    container: str
    blocks: tuple[str, ...]


def columns(model: nn.Module) -> tuple[Column, ...]:
    """Outermost containers of blocks, longest first; shorter than half of it are left out."""
    rows: list[Column] = []
    for path, module in model.named_modules():
        inside = any(_contains(c, path) for c in rows)
        if _is_row(module) and not inside:
            blocks = _longest_row(path, module)
            rows += [Column(path, blocks)] if blocks else []
    rows.sort(key=lambda c: -len(c.blocks))
    return tuple(c for c in rows if 2 * len(c.blocks) > len(rows[0].blocks))


def _contains(column: Column, path: str) -> bool:
    return any(path.startswith(f"{block}.") for block in column.blocks)


def _is_row(module: nn.Module) -> bool:
    """Whether the order of the children means something: pipelines number theirs in a dict."""
    if isinstance(module, nn.ModuleDict):
        return all(name.isdigit() for name in module)
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _longest_row(path: str, container: nn.Module) -> tuple[str, ...]:
    prefix = f"{path}." if path else ""
    rows = groupby(container.named_children(), key=lambda item: _could_be_block(item[1]))
    names = [tuple(prefix + name for name, _ in row) for is_block, row in rows if is_block]
    return max(names, key=len, default=())


def _could_be_block(module: nn.Module) -> bool:
    """Whether a module holds at least two matrices below it: attention or feed-forward alone do."""
    matrices = sum(p.ndim >= 2 for p in module.parameters())
    return matrices >= 2 and next(module.children(), None) is not None
