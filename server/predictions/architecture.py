"""What a run's line says of its model, from its spec."""

from __future__ import annotations

from typing import Any

import dslm

TITLES = {
    "pre": "Pre-LN",
    "post": "Post-LN",
    "sandwich": "Sandwich-LN",
    "branch": "Branch-LN",
    "parallel": "Parallel Pre-LN",
}


def described(spec: dslm.ModelSpec) -> dict[str, Any]:
    """The columns of `runs` that the spec of its first revision fills."""
    placement = placement_of(spec)
    return {
        "family": spec.family,
        "architecture": title(spec, placement),
        "placement": placement,
        "n_params": spec.n_params,
        "stacks": {name: sizes(stack) for name, stack in spec.stacks.items()},
        "missing": [{"where": m.where, "what": m.what, "why": m.why} for m in spec.missing],
        "notes": list(spec.notes),
    }


def placement_of(spec: dslm.ModelSpec) -> str | None:
    """Where every norm stands, or None where blocks differ or are not understood."""
    found = {block.placement for stack in spec.stacks.values() for block in stack.blocks if block}
    return found.pop() if len(found) == 1 else None


def title(spec: dslm.ModelSpec, placement: str | None) -> str:
    """For example ``Post-LN decoder, 24 × 64``; scaled residuals follow, ``λ 0.957, β 0.289``."""
    columns = [f"{name}, {len(one.blocks)} × {one.d_model}" for name, one in spec.stacks.items()]
    opening = f"{TITLES[placement]} " if placement else ""
    return (opening + " + ".join(columns) + _scales(spec))[:200]


def _scales(spec: dslm.ModelSpec) -> str:
    """The factors that every residual shares; "" where all are 1 or they differ."""
    found = {
        (one.lam, one.beta)
        for stack in spec.stacks.values()
        for block in stack.blocks
        if block
        for one in (block.attention_residual, block.feed_forward_residual)
    }
    lam, beta = found.pop() if len(found) == 1 else (1.0, 1.0)
    return "" if lam == beta == 1 else f", λ {lam:.3g}, β {beta:.3g}"


def sizes(stack: dslm.Stack) -> dict[str, int]:
    """Blocks, width and tokens of one stack."""
    return {
        "n_layers": len(stack.blocks),
        "d_model": stack.d_model,
        "seq_len": int(stack.input_kernel.cell_sizes.sum()),
    }
