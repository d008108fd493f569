"""One description of a pipeline, from what each stage knows of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dslm.flows import BlockFlow
from dslm.spec import Block, Carried, Kernel, Missing, ModelSpec, Stack

BlockCounts = Mapping[str, int]  # how many blocks of each stack


def merged_spec(specs: Sequence[ModelSpec | None], blocks: Sequence[BlockCounts]) -> ModelSpec:
    """The whole model, its blocks in the order of the stages.

    The input is that of the first stage that has blocks of a stack; the gradient at the top and
    the head are those of the last.

    Args:
        specs: of every stage, None where it was not described.
        blocks: how many blocks of each stack every stage holds.
    """
    described = [spec for spec in specs if spec is not None]
    names = sorted({name for counts in blocks for name in counts}, reverse=True)  # encoder first
    stacks = {name: _merged_stack(name, specs, blocks) for name in names}
    families = (spec.family for spec in described if spec.family != "custom")
    return ModelSpec(
        family=next(families, "custom"),
        stacks={name: stack for name, stack in stacks.items() if stack is not None},
        missing=tuple(
            missing
            for stage, (spec, counts) in enumerate(zip(specs, blocks, strict=True))
            for missing in _missing(stage, spec, counts)
        ),
        batch_size=max((spec.batch_size for spec in described), default=1),
        n_params=sum(spec.n_params for spec in described),
        notes=tuple(_notes(specs)),
        flows=_flows(names, specs, blocks),
    )


def _flows(
    names: Sequence[str], specs: Sequence[ModelSpec | None], blocks: Sequence[BlockCounts]
) -> dict[str, tuple[BlockFlow | None, ...]]:
    """What was measured inside the blocks; nothing where no stage has measured any."""
    if not any(spec is not None and spec.flows for spec in specs):
        return {}
    stages = list(zip(specs, blocks, strict=True))
    return {
        name: tuple(
            flow for spec, counts in stages for flow in _flows_of(name, spec, counts.get(name, 0))
        )
        for name in names
    }


def _flows_of(name: str, spec: ModelSpec | None, n: int) -> tuple[BlockFlow | None, ...]:
    flows = () if spec is None else spec.flows.get(name, ())
    return flows if len(flows) == n else (None,) * n


def _merged_stack(
    name: str, specs: Sequence[ModelSpec | None], blocks: Sequence[BlockCounts]
) -> Stack | None:
    parts = [
        (counts[name], spec.stacks.get(name) if spec is not None else None)
        for spec, counts in zip(specs, blocks, strict=True)
        if counts.get(name)
    ]
    first, last = parts[0][1], parts[-1][1]
    if first is None:
        return None  # without the input of its first block nothing can be predicted
    reads = (part.reads for _, part in parts if part is not None and part.reads is not None)
    stack = replace(
        first,
        blocks=tuple(block for n, part in parts for block in _blocks(part, n)),
        carried=_carried(parts),
        reads=next(reads, None),
        top_gradient_kernel=None,
        final_norm=None,
        final_p_drop=0.0,
        head=None,
    )
    if last is None:
        return stack
    top, head, x = last.top_gradient_kernel, last.head, stack.input_kernel
    return replace(
        stack,
        final_norm=last.final_norm,
        final_p_drop=last.final_p_drop,
        # Stages describe micro-batches of their own, which may differ in length.
        top_gradient_kernel=top if _same_cells(top, x) else None,
        head=head if head is not None and _same_cells(head.labels.counted, x) else None,
    )


def _blocks(part: Stack | None, n: int) -> tuple[Block | None, ...]:
    fits = part is not None and len(part.blocks) == n
    return part.blocks if part is not None and fits else (None,) * n


def _carried(parts: Sequence[tuple[int, Stack | None]]) -> tuple[Carried | None, ...]:
    """What was measured around blocks that are not understood, in the order of the stages."""
    known = [(n, () if part is None else part.carried) for n, part in parts]
    every = tuple(c for n, of in known for c in (of if len(of) == n else (None,) * n))
    return every if any(every) else ()


def _same_cells(kernel: Kernel | None, other: Kernel) -> bool:
    return kernel is not None and np.array_equal(kernel.cell_sizes, other.cell_sizes)


def _missing(stage: int, spec: ModelSpec | None, counts: BlockCounts) -> Iterator[Missing]:
    if spec is None:
        yield Missing(f"stage {stage}", "description", "it has not arrived from its process")
    elif any(counts.values()):  # a stage of embeddings alone misses no blocks
        for missing in spec.missing:
            yield Missing(f"stage {stage}: {missing.where}", missing.what, missing.why)


def _notes(specs: Sequence[ModelSpec | None]) -> Iterator[str]:
    """What makes a prediction doubtful, each text once, with the first stage that says it."""
    first_stage: dict[str, int] = {}
    for stage, spec in enumerate(specs):
        for note in spec.notes if spec is not None else ():
            first_stage.setdefault(note, stage)
    for note, stage in first_stage.items():
        yield f"stage {stage}: {note}"
