"""What the arguments of `transformers`' attention functions mean for the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainer_agent.capture.attention.transformers_api import sampled_transformers
from trainer_agent.capture.statistics.logits import logits_of

SEQ = 8


def causal_module() -> nn.Module:
    module = nn.Identity()
    module.is_causal = True
    return module


PADDING = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])


@pytest.mark.parametrize("kind", ["window", "padding", "packed", "both ways"])
def test_flash_attention_has_the_masks_of_its_arguments(kind: str) -> None:
    # flash-attn itself needs a GPU: what it is given is checked against dense masks.
    n = 1 if kind == "packed" else 2
    q, k = torch.randn(n, 4, SEQ, 8), torch.randn(n, 2, SEQ, 8)
    place = torch.arange(SEQ)
    back = place[:, None] - place
    real = PADDING.bool()
    arguments, allowed = {
        "window": ({"sliding_window": 3}, (back >= 0) & (back < 3)),
        "padding": (
            {"attention_mask": PADDING},
            (back >= 0) & real[:, None, None] & real[:, None, :, None],
        ),
        "packed": (
            {"position_ids": POSITIONS},
            (back >= 0) & (place >= 3).eq((place >= 3)[:, None]),
        ),
        "both ways": ({"is_causal": False, "sliding_window": 2}, back.abs() < 2),
    }[kind]
    full = q @ k.repeat_interleave(2, dim=1).transpose(-2, -1) * 0.4

    call = sampled_transformers(
        "flash_attention_2", causal_module(), q, k, k, scaling=0.4, **arguments
    )

    assert call is not None
    (logits,) = logits_of([call])
    assert torch.allclose(logits, full.masked_fill(~allowed, float("-inf")), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("flash_attention_2", {"s_aux": torch.zeros(4)}),
        ("flash_attention_2", {"cu_seq_lens_q": torch.tensor([0, 3, 8])}),
        ("flex_attention", {"position_bias": torch.zeros(1, 4, 8, 8)}),
        ("custom", {"attention_mask": PADDING}),
        ("custom", {"a_new_argument": 3}),
        ("custom", {"is_causal": False, "sliding_window": 3}),
    ],
)
def test_arguments_that_are_not_understood_leave_the_call_out(
    name: str, arguments: dict[str, Any]
) -> None:
    q = torch.randn(2, 4, SEQ, 8)

    assert sampled_transformers(name, causal_module(), q, q, q, **arguments) is None


def test_a_mask_of_four_axes_says_all() -> None:
    q, mask = torch.randn(2, 4, SEQ, 8), torch.rand(2, 1, SEQ, SEQ) > 0.5

    call = sampled_transformers(
        "custom", causal_module(), q, q, q, mask, scaling=1.0, softcap=2.0, sliding_window=1
    )

    assert call is not None
    full = 2 * torch.tanh(q @ q.transpose(-2, -1) / 2)
    (logits,) = logits_of([call])
    assert torch.allclose(logits, full.masked_fill(~mask, float("-inf")), atol=1e-5)
