"""The columns of blocks of a model: the longest rows of alike modules that hold matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

NUMBERED = re.compile(r"(\w*(?:layer|block)\w*?)(\d+)", re.IGNORECASE)  # layer1, enc_block_2
RUN = re.compile(r"(.+)\[(\d+):(\d+)\]")  # layers[2:4], the items 2 and 3 of layers


@dataclass(frozen=True, slots=True)
class Column:
    """Blocks of one container, by path, in the container's order.

    Where `is_called` is false no block is a module that the model calls: each is a tuple of parts,
    such as (attention, feed-forward), or a run of such tuples, ``layers[0:2]``.
    """

    container: str
    blocks: tuple[str, ...]
    is_called: bool = True


def members(block: str) -> tuple[str, ...]:
    """The modules that a block is made of: itself, or the items of a run."""
    run = RUN.fullmatch(block)
    if run is None:
        return (block,)
    return tuple(f"{run[1]}.{item}" for item in range(int(run[2]), int(run[3])))


def holds(block: str, path: str) -> bool:
    """Whether a module or parameter is the block, or lies in it."""
    return f"{path}.".startswith(tuple(f"{member}." for member in members(block)))


def columns(model: nn.Module) -> tuple[Column, ...]:
    """Outermost containers of blocks, longest first; shorter than half of it are left out."""
    rows: list[Column] = []
    blocks_of_rows: set[str] = set()
    within: tuple[str, ...] = ()  # prefixes of what is in a row, or in one that is never called
    for path, module in model.named_modules():
        if path.startswith(within):
            continue
        if _is_row(module) and _is_row_of_tuples(module):
            within += (f"{path}." if path else "",)
            rows.append(Column(path, _layers_of_tuples(path, module), is_called=False))
            continue
        row = _longest_row if _is_row(module) else _numbered_attributes
        blocks = () if path in blocks_of_rows and not _is_row(module) else row(path, module)
        if blocks:
            rows.append(Column(path, blocks))
            blocks_of_rows |= set(blocks)
            within += tuple(f"{block}." for block in blocks)
    rows.sort(key=lambda c: -len(c.blocks))
    return tuple(c for c in rows if 2 * len(c.blocks) > len(rows[0].blocks))


def _is_row(module: nn.Module) -> bool:
    """Whether the order of the children means something: pipelines number theirs in a dict."""
    if isinstance(module, nn.ModuleDict):
        return all(name.isdigit() for name in module)
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _is_row_of_tuples(module: nn.Module) -> bool:
    """Whether it holds tuples such as (attention, feed-forward), none of which is ever called.

    The parts of a tuple are not alike, and so are no blocks; those of a stage are.
    """
    kinds = [_kinds(item) for item in module.children()]
    uncalled = not any(map(_has_forward, module.children()))
    is_regular = all(len(set(kind)) > 1 and len(kind) == len(kinds[0]) for kind in kinds)
    return len(kinds) > 1 and uncalled and is_regular


def _layers_of_tuples(path: str, row: nn.Module) -> tuple[str, ...]:
    """A layer begins with each tuple that is like the first: attention, then feed-forward."""
    kinds = [_kinds(item) for item in row.children()]
    starts = [index for index, kind in enumerate(kinds) if kind == kinds[0]]
    ends = [*starts[1:], len(kinds)]
    return tuple(
        f"{path}.{start}".lstrip(".") if end == start + 1 else f"{path}[{start}:{end}]"
        for start, end in zip(starts, ends, strict=True)
    )


def _kinds(item: nn.Module) -> Sequence[type]:
    return tuple(type(part) for part in item.children())


def _longest_row(path: str, container: nn.Module) -> tuple[str, ...]:
    prefix = f"{path}." if path else ""
    rows = groupby(container.named_children(), key=lambda item: _could_be_block(item[1]))
    names = [tuple(prefix + name for name, _ in row) for is_block, row in rows if is_block]
    return max(names, key=len, default=())


def _numbered_attributes(path: str, module: nn.Module) -> tuple[str, ...]:
    """The longest row of attributes of one class and name but for a number: layer1, layer2, …"""
    prefix = f"{path}." if path else ""
    rows: dict[tuple[str, type], dict[int, str]] = {}
    for name, child in module.named_children():
        match = NUMBERED.fullmatch(name)
        if match and _could_be_block(child) and not _is_row(child):
            rows.setdefault((match[1], type(child)), {})[int(match[2])] = prefix + name
    complete = [row for row in rows.values() if len(row) == max(row) - min(row) + 1 > 1]
    longest = max(complete, key=len, default={})
    return tuple(longest[number] for number in sorted(longest))


def _could_be_block(module: nn.Module) -> bool:
    """Whether a module holds at least two matrices below it: attention or feed-forward alone do.

    A container without a forward pass is never called.
    """
    matrices = sum(p.ndim >= 2 for p in module.parameters())
    return matrices >= 2 and next(module.children(), None) is not None and _has_forward(module)


def _has_forward(module: nn.Module) -> bool:
    # torch.compile and accelerate set forward on the instance.
    return "forward" in vars(module) or type(module).forward is not nn.Module.forward
