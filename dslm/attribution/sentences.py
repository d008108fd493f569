"""What stands out in an attribution, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from dslm.attribution.result import Direction, PartShare, StackAttribution
from dslm.spec import Floats

NAMES = {
    "attention.query": "attention's query matrix",
    "attention.key": "attention's key matrix",
    "attention.value": "attention's value matrix",
    "attention.output": "attention's output matrix",
    "attention_norm": "the norm of attention",
    "attention_out_norm": "the norm on attention's output",
    "cross.value": "cross-attention's value matrix",
    "cross.output": "cross-attention's output matrix",
    "cross_norm": "the norm of cross-attention",
    "feed_forward.up": "the feed-forward's first matrix",
    "feed_forward.gate": "the feed-forward's gate",
    "feed_forward.down": "the feed-forward's last matrix",
    "feed_forward_norm": "the norm of the feed-forward",
    "feed_forward_out_norm": "the norm on the feed-forward's output",
}
STEPS = {
    "attention": "attention",
    "cross": "cross-attention",
    "feed_forward": "the feed-forward",
}
SMALL = math.log10(1.1)  # a block or a term below 10 % is not spoken of
MOSTLY = 0.3  # share of what is read from which on the direction is named


def sentences_of(stack: StackAttribution) -> tuple[str, ...]:
    """The block that changed the stream most, and that which changed the gradient most."""
    return tuple(
        sentence for sentence in (_forward(stack), _backward(stack)) if sentence is not None
    )


def _forward(stack: StackAttribution) -> str | None:
    change = stack.forward.total - stack.forward.terms["entering"]
    block = _largest(change)
    if block is None:
        return None
    causes = "; ".join(_causes(stack, block, "forward", stack.branches))
    after = stack.forward.total[block]
    total = "" if abs(after - change[block]) < SMALL else f", where it is {_times(after)} in all"
    return (
        f"The stream's variance changes most in block {block}, {_times(change[block])}{total}: "
        f"{causes}."
    )


def _backward(stack: StackAttribution) -> str | None:
    block = _largest(stack.backward.total)
    if block is None:
        return None
    causes = "; ".join(_causes(stack, block, "backward", stack.branches_backward))
    gain = _times(stack.backward.total[block])
    return f"The gradient's gain changes most in block {block}, {gain}: {causes}."


def _largest(values: Floats) -> int | None:
    sizes = np.where(np.isfinite(values), np.abs(values), 0.0)
    if not len(sizes) or sizes.max() < SMALL:
        return None
    return int(sizes.argmax())


def _causes(
    stack: StackAttribution, block: int, direction: str, branches: Mapping[str, Direction]
) -> Iterator[str]:
    """The two largest causes, then what the weights' size does in the branch of the first."""
    parts = [
        part
        for part in stack.parts
        if part.block == block and part.direction == direction and part.term != "entering"
    ][:2]
    yield from map(_cause, parts)
    step = _step(parts[0].part) if parts else None
    if step is not None and step in branches and not any(part.term == "weights" for part in parts):
        weights = float(branches[step].terms["weights"][block])
        if math.isfinite(weights):
            yield f"the size of {STEPS[step]}'s weights makes {_times(weights)}"


def _step(part: str) -> str | None:
    """The residual step that a part belongs to; None for the stream."""
    names = (step for step in STEPS if part.startswith(step))
    return next(names, None)


def _cause(part: PartShare) -> str:
    step = _step(part.part)
    if step is None or not math.isfinite(part.branch_decades):
        return f"{_words(part)}, {_times(part.decades)}"
    makes = "adds" if part.direction == "forward" else "returns"
    return f"{_words(part)}, {_times(part.branch_decades)} on what {STEPS[step]} {makes}"


def _words(part: PartShare) -> str:
    name = NAMES.get(part.part, part.part)
    if part.term == "directions":
        return _reading(part, name)
    return {
        "norms": f"the gain of {name}",
        "attention": "attention's weights between tokens",
        "activation": "what the activation lets through",
        "norm_inputs": f"{name} divides by a stream of another size",
        "alignment": "the angle between branches and stream",
        "entering": "what enters from the other stack",
        "weights": f"the size of {name}",
        "remainder": f"what no measured site explains ({name})",
    }[part.term]


def _reading(part: PartShare, name: str) -> str:
    if part.part.endswith(".average"):
        return "tokens' values agree more, and survive being averaged"
    if part.shared >= MOSTLY:
        share = f"{100 * part.shared:.0f} % of what it reads is common to all tokens"
        return f"{name} reads the directions that the stream has ({share})"
    return f"{name} reads the directions that the stream has"


def _times(decades: float) -> str:
    factor = 10.0 ** float(decades)
    return f"×{factor:.3g}" if factor < 1000 else f"×{factor:,.0f}"
