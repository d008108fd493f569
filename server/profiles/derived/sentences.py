"""What the curves know and what departs, in words."""

from __future__ import annotations

import math

LEGEND = {
    "initialisation": "from the weights at the run's start: where it began",
    "today": "from the second moments of the weights at the revision's step",
    "ahead": "each layer from the measured other side of its block and the block's last samples",
    "reference": "the blocks' last samples, composed from block 0's input alone",
}

_SUBJECTS = {
    "variance": "the variance behind it",
    "correlation": "the correlation of tokens behind it",
    "gradient": "the gradient's variance in front of it",
    "attention": "what its attention adds",
    "feed_forward": "what its feed-forward layer adds",
    "attention_logits": "the variance of its attention logits",
    "attention_bits": "what its attention adds",
    "feed_forward_bits": "what its feed-forward layer adds",
    "updates": "the size of its updates beside the other blocks'",
    "weights": "the size of its weights",
    "weight_gradients": "the size of its weights' gradients beside the other blocks'",
}
# Bits of a significand, the leading one included, and the type that has them.
_TYPES = {24: "float32", 11: "float16", 8: "bfloat16"}
LARGEST = 30.0  # powers of two beyond which a factor says nothing


def departure_text(
    stack: str, block: int | None, quantity: str, step: int, *, innovation: float, high: float
) -> str:
    """One sentence: which block, since when, in what and by how much."""
    where = f"The input of the {stack}" if block is None else f"Block {block} of the {stack}"
    subject = "it" if block is None else _SUBJECTS[quantity]
    return f"{where} departs at step {step}: {subject} {_amount(quantity, innovation, high)}."


def early_text(samples: int, fewest: int) -> str:
    """Why no block is named yet."""
    plural = "" if samples == 1 else "s"
    return (
        f"A block that is off is named once {fewest} samples lie before it; the newest step has "
        f"{samples or 'no'} sample{plural}."
    )


def farthest_text(stack: str, block: int, quantity: str, *, innovation: float, high: float) -> str:
    """One sentence: which block is farthest from its expectation, where that accuses none."""
    amount = _amount(quantity, innovation, high)
    return (
        f"Farthest off is block {block} of the {stack}: {_SUBJECTS[quantity]} {amount}. Blocks of "
        "healthy models are as far off in their first samples."
    )


def _amount(quantity: str, innovation: float, high: float) -> str:
    if not math.isfinite(innovation):
        return "is not finite"
    if quantity == "correlation":
        return f"is off by {innovation:+.2g}, with a band of ±{high:.2g}"
    if quantity.endswith("_bits"):
        return _bits(innovation)
    band = f"within a band of ×{2**high:.3g}" if high < LARGEST else "within no band"
    if abs(innovation) > LARGEST:
        return ("vanishes" if innovation < 0 else "explodes") + f", expected {band}"
    return f"is ×{2**innovation:.3g} of what its last samples say, expected {band}"


def _bits(innovation: float) -> str:
    """The two types whose bits have this ratio, as a power of two."""
    pairs = [(now, before) for now in _TYPES for before in _TYPES if now != before]
    now, before = min(pairs, key=lambda pair: abs(math.log2(pair[0] / pair[1]) - innovation))
    return f"carries the {now} bits of {_TYPES[now]}, where it carried {_TYPES[before]}'s {before}"
