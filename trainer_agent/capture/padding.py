"""Which tokens are padding, by the arguments of the model's forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def padding_masks(kwargs: Mapping[str, Any], stacks: Sequence[str]) -> dict[str, Tensor | None]:
    """Per stack, (batch, seq) true at real tokens, or None where no mask was given.

    Read from the keywords that `transformers` models take. Masks of other shapes, causal ones
    say, are no padding masks.
    """
    mask = _key_mask(kwargs.get("attention_mask"))
    encoders = [name for name in stacks if name.startswith("encoder")]
    if 0 < len(encoders) < len(stacks):
        decoder = _key_mask(kwargs.get("decoder_attention_mask"))
        return {name: mask if name in encoders else decoder for name in stacks}
    return dict.fromkeys(stacks, mask)


def _key_mask(mask: object) -> Tensor | None:
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    real = mask.detach().bool()
    # Sums with a mask cost more than without, so a mask of nothing is dropped; only on the CPU,
    # where reading it does not wait for the device.
    return None if real.device.type == "cpu" and bool(real.all()) else real


def fitting(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask, if it has this tensor's (batch, seq)."""
    if mask is None or x.ndim != 3 or mask.shape != x.shape[:2]:
        return None
    return mask
