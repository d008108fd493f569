"""Which blocks of a model are alike: drawn from one distribution, and computing the same."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from trainer_agent.model.blocks import Column


@dataclass(frozen=True, slots=True)
class BlockKinds:
    """The kinds of a column's blocks.

    Attributes:
        container: path of the module list that holds the blocks.
        first_of_kind: for each block, the index of the first block of its kind.
    """

    container: str
    first_of_kind: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, column: Column) -> BlockKinds:
        """Return the kinds of a column's blocks."""
        firsts: dict[object, int] = {}
        for number, path in enumerate(column.blocks):
            firsts.setdefault(_kind(model.get_submodule(path), number), number)
        first_of_kind = tuple(
            firsts[_kind(model.get_submodule(path), number)]
            for number, path in enumerate(column.blocks)
        )
        return cls(column.container, first_of_kind)

    @property
    def built(self) -> int:
        """Number of blocks that must be built: up to the first of the last kind to appear."""
        return max(self.first_of_kind) + 1


def _kind(block: nn.Module, number: int) -> object:
    """Return a value that is equal for blocks with the same distribution and computation.

    It consists of the modules' types, plain attributes and parameter shapes.
    """
    parts = []
    for path, module in block.named_modules():
        plain = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float | str | None) and "layer_idx" not in name
        }
        shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False))
        parts.append((path, type(module), tuple(sorted(plain.items(), key=str)), shapes))
        # a flag such as "is the first layer" makes the block one of a kind
        if any(value is True for name, value in vars(module).items() if "layer_idx" in name):
            parts.append((path, type(module), (), (("depends on its layer", (number,)),)))
    return tuple(parts)


def remove_unbuilt(model: nn.Module, kinds: BlockKinds) -> None:
    """Remove the blocks that need not be built."""
    container = model.get_submodule(kinds.container)
    if isinstance(container, nn.ModuleList) and len(container) == len(kinds.first_of_kind):
        del container[kinds.built :]
