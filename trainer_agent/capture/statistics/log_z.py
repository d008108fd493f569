r"""The logarithm of the final softmax's partition function, :math:`\ln \sum_v e^{z_v}`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAMPLED_TOKENS = 256


@torch.no_grad()
def log_z_sums(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count, sum and squares of log Z over at most 256 tokens, (3,).

    Args:
        logits: (batch, seq, vocabulary), or (tokens, vocabulary); any floating type.
        mask: (batch, seq), true or non-zero at real tokens.
    """
    final = torch.float32 if logits.device.type == "mps" else torch.float64
    rows = logits.detach().flatten(0, -2)
    stride = -(-len(rows) // SAMPLED_TOKENS)
    log_z = torch.logsumexp(rows[::stride].float(), -1).to(final)
    if mask is None:
        real = torch.ones_like(log_z)
    else:
        real = mask.to(device=logits.device, dtype=torch.bool).reshape(-1)[::stride].to(final)
        log_z = torch.where(real > 0, log_z, 0.0)
    return torch.stack([real.sum(), log_z.sum(), log_z.square().sum()])


def head_of(model: nn.Module, blocks: tuple[str, ...]) -> str | None:
    """Path of the module that makes the final logits, or None where it is no module of its own.

    `transformers` models name it; else it is the linear map outside the blocks that has as many
    outputs as some embedding has rows.
    """
    named = getattr(model, "get_output_embeddings", None)
    head = named() if callable(named) else None
    sizes = {one.num_embeddings for one in model.modules() if isinstance(one, nn.Embedding)}
    path: str
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{block}.") for block in blocks)
        if module is head or (
            head is None
            and isinstance(module, nn.Linear)
            and module.out_features in sizes
            and not inside
        ):
            return path
    return None
