"""Which tokens are padding, from what the model's forward was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def padding_masks(kwargs: Mapping[str, Any], stacks: Sequence[str]) -> dict[str, Tensor | None]:
    """Per stack, (batch, seq) true at real tokens, or None where no mask was given.

    Read from the keywords `transformers` models take; other shapes of mask (causal ones, say)
    are no padding masks and are left alone.
    """
    whole = _key_mask(kwargs.get("attention_mask"))
    encoders = [name for name in stacks if name.startswith("encoder")]
    if 0 < len(encoders) < len(stacks):
        decoder = _key_mask(kwargs.get("decoder_attention_mask"))
        return {name: whole if name in encoders else decoder for name in stacks}
    return dict.fromkeys(stacks, whole)


def _key_mask(mask: object) -> Tensor | None:
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    real = mask.detach().bool()
    # Asked once, where it takes no waiting: a mask of nothing costs more than no mask.
    return None if real.device.type == "cpu" and bool(real.all()) else real


def fitting(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask, if it speaks of this tensor's (batch, seq)."""
    if mask is None or x.ndim != 3 or mask.shape != x.shape[:2]:
        return None
    return mask
