"""What of a model's blocks the theory does not cover, as one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

import dslm
from trainer_agent.model.blocks import Column

# words in the names of a block's modules and parameters, and what they stand for
FOREIGN = (
    (
        ("A_log", "dt_proj", "ssm", "mamba", "time_mix_key", "time_decay"),
        "a state-space recurrence",
    ),
)


def uncovered(model: nn.Module, column: Column) -> str:
    """Return the sentence on blocks with parts that have no theory; empty where none is known.

    Only names of modules and parameters are looked at, so that nothing need be built.
    """
    blocks = [model.get_submodule(path) for path in column.blocks]
    parts = [_foreign(block) for block in blocks]
    if not any(parts):
        return ""
    names = tuple(dict.fromkeys(name for part in parts for name in part))
    sizes = f"{len(parts)} blocks"
    n_foreign = sum(bool(part) for part in parts)
    share = f"all {sizes}" if n_foreign == len(parts) else f"{n_foreign} of {sizes}"
    kind = type(blocks[next(i for i, part in enumerate(parts) if part)]).__name__
    have = "have" if n_foreign > 1 else "has"
    return f"{share} ({kind}) {have} {' and '.join(names)}, which the theory does not cover"


def gaps(spec: dslm.ModelSpec) -> str:
    """Return the sentence on a described model's blocks that were not understood, or nothing."""
    for stack in spec.stacks.values():
        n_gaps = sum(block is None for block in stack.blocks)
        if n_gaps:
            share = f"{n_gaps} of {len(stack.blocks)} blocks"
            return f"the theory does not cover {share} ({_first(_whys(spec.missing))})"
    if not spec.stacks:
        return f"the theory does not cover its blocks ({_first(_whys(spec.missing))})"
    return ""


def _whys(missing: Sequence[dslm.Missing]) -> Iterable[str]:
    return (f"{gap.where}: {gap.what}, {gap.why}" for gap in missing)


def _first(reasons: Iterable[str]) -> str:
    return next(iter(reasons), "no reason is known")


def _foreign(block: nn.Module) -> tuple[str, ...]:
    words = {
        word
        for name, _ in (*block.named_modules(), *block.named_parameters())
        for word in name.split(".")
    }
    return tuple(what for names, what in FOREIGN if words.intersection(names))
