"""A model's name and sizes in the run list, from its spec."""

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
MAX_TITLE = 200  # characters that the column holds


def run_columns(spec: dslm.ModelSpec) -> dict[str, Any]:
    """The columns of `runs` that the spec of the first revision fills."""
    placement = placement_of(spec)
    return {
        "family": spec.family,
        "architecture": title(spec, placement),
        "placement": placement,
        "n_params": spec.n_params,
        "stacks": {name: sizes(stack) for name, stack in spec.stacks.items()},
        "missing": [
            {"where": part.where, "what": part.what, "why": part.why} for part in spec.missing
        ],
        "notes": list(spec.notes),
    }


def placement_of(spec: dslm.ModelSpec) -> str | None:
    """Where every norm stands, or None where blocks differ or are not understood."""
    placements = {
        block.placement for stack in spec.stacks.values() for block in stack.blocks if block
    }
    return placements.pop() if len(placements) == 1 else None


def title(spec: dslm.ModelSpec, placement: str | None) -> str:
    """For example ``Post-LN decoder, 24 × 64``; scaled residuals follow, ``λ 0.957, β 0.289``."""
    stacks = [
        f"{name}, {len(stack.blocks)} × {stack.d_model}" for name, stack in spec.stacks.items()
    ]
    norms = f"{TITLES[placement]} " if placement else ""
    return (norms + " + ".join(stacks) + _scales(spec))[:MAX_TITLE]


def _scales(spec: dslm.ModelSpec) -> str:
    """The scales that every residual shares; "" where all are 1 or they differ."""
    # Blocks that are not understood are passed over: they have no scales to disagree.
    scales = {
        (residual.lam, residual.beta)
        for stack in spec.stacks.values()
        for block in stack.blocks
        if block
        for residual in (block.attention_residual, block.feed_forward_residual)
    }
    lam, beta = scales.pop() if len(scales) == 1 else (1.0, 1.0)
    return "" if lam == beta == 1 else f", λ {lam:.3g}, β {beta:.3g}"


def sizes(stack: dslm.Stack) -> dict[str, int]:
    """Blocks, width and tokens of one stack."""
    return {
        "n_layers": len(stack.blocks),
        "d_model": stack.d_model,
        "seq_len": int(stack.input_kernel.cell_sizes.sum()),
    }
