"""One description of a pipeline, from what each stage knows of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dslm.spec import Block, Kernel, Missing, ModelSpec, Stack

Blocks = Mapping[str, int]  # how many blocks of each stack


def whole_spec(parts: Sequence[ModelSpec | None], blocks: Sequence[Blocks]) -> ModelSpec:
    """The whole model, its blocks in the order of stages.

    The input is that of the first stage that has blocks of a stack; the gradient at the top and
    what makes a loss of it are the last one's.

    Args:
        parts: of every stage, None where it was not described.
        blocks: how many blocks of each stack every stage holds.
    """
    stages = list(zip(range(len(parts)), parts, blocks, strict=True))
    known = [part for part in parts if part is not None]
    names = sorted({name for held in blocks for name in held}, reverse=True)  # encoder first
    stacks = {name: _stack(name, parts, blocks) for name in names}
    return ModelSpec(
        family=next((one.family for one in known if one.family != "custom"), "custom"),
        stacks={name: stack for name, stack in stacks.items() if stack is not None},
        missing=tuple(
            missing for number, part, held in stages for missing in _missing(number, part, held)
        ),
        batch_size=max((one.batch_size for one in known), default=1),
        n_params=sum(one.n_params for one in known),
        notes=tuple(_notes(parts)),
    )


def _stack(name: str, parts: Sequence[ModelSpec | None], blocks: Sequence[Blocks]) -> Stack | None:
    held = [
        (held[name], part.stacks.get(name) if part is not None else None)
        for part, held in zip(parts, blocks, strict=True)
        if held.get(name)
    ]
    first, last = held[0][1], held[-1][1]
    if first is None:
        return None  # of what enters the model nothing is known
    found = [stack for _, stack in held if stack is not None]
    whole = replace(
        first,
        blocks=tuple(block for n, stack in held for block in _blocks(stack, n)),
        reads=next((stack.reads for stack in found if stack.reads is not None), None),
        top_gradient_kernel=None,
        final_norm=None,
        final_p_drop=0.0,
        head=None,
    )
    if last is None:
        return whole
    top, head = last.top_gradient_kernel, last.head
    return replace(
        whole,
        final_norm=last.final_norm,
        final_p_drop=last.final_p_drop,
        top_gradient_kernel=top if _alike(top, whole.input_kernel) else None,
        head=head if head is not None and _alike(head.labels.counted, whole.input_kernel) else None,
    )


def _blocks(stack: Stack | None, n: int) -> tuple[Block | None, ...]:
    fits = stack is not None and len(stack.blocks) == n
    return stack.blocks if stack is not None and fits else (None,) * n


def _alike(kernel: Kernel | None, other: Kernel) -> bool:
    return kernel is not None and np.array_equal(kernel.cell_sizes, other.cell_sizes)


def _missing(stage: int, part: ModelSpec | None, held: Blocks) -> Iterator[Missing]:
    if part is None:
        yield Missing(f"stage {stage}", "description", "it has not arrived from its process")
    elif any(held.values()):  # a stage of embeddings alone misses no blocks
        for one in part.missing:
            yield Missing(f"stage {stage}: {one.where}", one.what, one.why)


def _notes(parts: Sequence[ModelSpec | None]) -> Iterator[str]:
    """What makes a prediction doubtful, each text once, with the first stage that says it."""
    first: dict[str, int] = {}
    for stage, part in enumerate(parts):
        for note in part.notes if part is not None else ():
            first.setdefault(note, stage)
    for note, stage in first.items():
        yield f"stage {stage}: {note}"
