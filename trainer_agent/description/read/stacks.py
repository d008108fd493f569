"""Columns of blocks put together to stacks, once each block's call was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dslm.spec import Missing
from trainer_agent.description.read.encoder_output import EncoderOutput
from trainer_agent.description.read.parts import Added, Architecture, BlockParts, StackParts
from trainer_agent.model.blocks import Column
from trainer_agent.model.plan import Edge

SKIPPED = "skipped block"
WHY_SKIPPED = "no forward pass that was read has called it"
UNCALLED = "never called on a (batch, seq, features) stream in this forward pass"
PACKED = (
    "called on packed sequences, (tokens, features): the theory needs to know where each begins, "
    "as (batch, seq, features) says"
)
NOT_THEMSELVES = (
    "the model calls their `forward`, or their parts, and not the blocks themselves: no hook is "
    "given what goes in and comes out"
)
NOT_GIVEN = (
    "its items are tuples of parts that the model's forward calls one by one, and between the "
    "items no module is given the residual stream: write each layer as a module with a forward"
)
SKIPS = (
    "steps skip blocks, as LayerDrop and early exits do: the prediction is that of a pass through "
    "all of them"
)


@dataclass(slots=True)
class BlockReading:
    """What one block's call gave.

    Attributes:
        d_model: width of its stream.
        order: how many blocks were called before it.
        parts, missing: what was understood of it; or why that is nothing.
        added: what its branches add to the stream, by site.
        reads: the other stack's output that it reads, or None.
        stack: the name that a hint gives its stack, or None.
        first_call: what the first call of a block shows that is called again: where its norms and
            heads are. The theory has no layers that share weights.
    """

    d_model: int
    order: int
    parts: BlockParts | None = None
    missing: Missing | None = None
    added: dict[str, Added] = field(default_factory=dict)
    reads: EncoderOutput | None = None
    stack: str | None = None
    first_call: BlockParts | None = None


Readings = Mapping[str, BlockReading]
Stacks = tuple[tuple[StackParts, ...], tuple[Missing, ...]]


def stacks_of(
    columns: Sequence[Column],
    readings: Readings,
    outside: Collection[str] = (),
    packed: Collection[str] = (),
    calls: Sequence[str] = (),
    *,
    edges: Mapping[str, tuple[Edge, ...]] | None = None,
) -> Stacks:
    """The stacks of blocks that were called, and what is missing of them.

    `outside` are the modules that were called while no block ran, `packed` the blocks that were
    called on (tokens, features). `calls` has blocks in the order of their calls, those that are
    called again and again as often: each call is a layer. `edges` are those of the containers whose
    blocks are not called themselves.
    """
    missing: list[Missing] = []
    stacks: list[StackParts] = []
    for column in columns:
        of_column = (edges or {}).get(column.container, ())
        if not column.is_called and not of_column:
            missing.append(Missing(column.container or "model", "blocks", NOT_GIVEN))
            continue
        called = sorted(
            (block for block in column.blocks if block in readings),
            key=lambda block: readings[block].order,
        )
        passed_by = [
            block
            for block in column.blocks
            if block not in called and any(path.startswith(f"{block}.") for path in outside)
        ]
        if passed_by:
            where = passed_by[0] if called else column.container or "model"
            missing.append(Missing(where, "blocks", NOT_THEMSELVES))
        elif not called:
            why = PACKED if any(block in packed for block in column.blocks) else UNCALLED
            missing.append(Missing(column.container or "model", "blocks", why))
        missing += [m for block in called if (m := readings[block].missing) is not None]
        # Where the model calls its blocks in another order, those skipped have no place in it.
        in_order = [block for block in column.blocks if block in readings] == called
        blocks = list(column.blocks) if in_order and not passed_by else called
        layers = [block for block in calls if block in column.blocks]
        if len(layers) > len(called) == len(set(layers)):
            blocks = layers
        if called:
            stacks.append(replace(_stack(blocks, called, readings), edges=of_column))
            missing += [Missing(b, SKIPPED, WHY_SKIPPED) for b in stacks[-1].skipped]
    if not columns:
        missing.append(
            Missing(
                "model",
                "blocks",
                "found in no row of alike modules that hold matrices and are called",
            )
        )
    named = _named_apart(stacks, missing)
    return tuple(_connected(stack, named, readings) for stack in named), tuple(missing)


def _connected(stack: StackParts, stacks: tuple[StackParts, ...], readings: Readings) -> StackParts:
    """The stack, with what it reads, and what stands between it and those that read it."""
    outputs = [(block, r.reads) for block, r in readings.items() if r.reads is not None]
    last_read = next((read.block for block, read in outputs if block in stack.blocks), None)
    reads = next((s.name for s in stacks if s.blocks[-1] == last_read), None)
    output = next((read for _, read in outputs if read.block == stack.blocks[-1]), None)
    if output is None:
        return replace(stack, reads=reads)
    return replace(stack, reads=reads, final_norm=output.norm, final_p_drop=output.p_drop)


def _stack(blocks: list[str], called: list[str], readings: Readings) -> StackParts:
    skipped = tuple(block for block in blocks if block not in readings)
    parts = tuple(readings[b].parts if b in readings else None for b in blocks)
    causal = {p.causal for p in parts if p is not None}
    first = readings[called[0]]
    name = first.stack or ("encoder" if causal == {False} else "decoder")
    added = tuple(readings[b].added if b in readings else {} for b in blocks)
    first_calls = tuple(readings[b].first_call if b in readings else None for b in blocks)
    return StackParts(
        name,
        tuple(blocks),
        parts,
        first.d_model,
        added,
        skipped=skipped,
        first_calls=first_calls,
    )


def completed(before: Architecture, now: Architecture) -> Architecture:
    """What two passes have shown, of which either may have skipped blocks that the other called."""
    earlier = {stack.blocks: stack for stack in before.stacks}
    stacks = tuple(
        _both(earlier[stack.blocks], stack) if stack.blocks in earlier else stack
        for stack in now.stacks
    )
    # The head is read where the last block was called.
    base = before if any(s.head for s in before.stacks) else now
    skipped = {block for stack in stacks for block in stack.skipped}
    missing = tuple(m for m in base.missing if m.what != SKIPPED or m.where in skipped)
    notes = tuple(dict.fromkeys((*base.notes, SKIPS)))
    return replace(now, stacks=stacks, missing=missing, notes=notes)


def _both(before: StackParts, now: StackParts) -> StackParts:
    # What follows the last block is seen in passes that call it.
    end = now if now.final_norm is not None else before
    return replace(
        now,
        parts=tuple(a or b for a, b in zip(now.parts, before.parts, strict=True)),
        added=tuple(a or b for a, b in zip(now.added, before.added, strict=True)),
        reads=now.reads or before.reads,
        final_norm=end.final_norm,
        final_p_drop=end.final_p_drop,
        head=now.head or before.head,
        skipped=tuple(block for block in now.skipped if block in before.skipped),
    )


def _named_apart(stacks: list[StackParts], missing: list[Missing]) -> tuple[StackParts, ...]:
    """At most one stack of each name, encoder first."""
    by_name: dict[str, StackParts] = {}
    for stack in stacks:
        if stack.name in by_name:
            why = f"a second {stack.name}; one is shown"
            missing.append(Missing(stack.blocks[0].rpartition(".")[0], "blocks", why))
        else:
            by_name[stack.name] = stack
    return tuple(by_name[name] for name in ("encoder", "decoder") if name in by_name)
