"""The module of a model that makes its final logits."""

from __future__ import annotations

from torch import nn

from trainer_agent.model.blocks import holds


def lm_head_of(model: nn.Module, blocks: tuple[str, ...]) -> str | None:
    """Path of the module that makes the final logits, or None where it is no module of its own.

    `transformers` models name it; else it is the linear map outside the blocks that has as many
    outputs as some embedding has rows.
    """
    named = getattr(model, "get_output_embeddings", None)
    head = named() if callable(named) else None
    sizes = {
        module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)
    }
    path: str
    # Tied or not, a head has one output for each row of the embedding.
    for path, module in model.named_modules():
        inside = any(holds(block, path) for block in blocks)
        if module is head or (
            head is None
            and isinstance(module, nn.Linear)
            and module.out_features in sizes
            and not inside
        ):
            return path
    return None
