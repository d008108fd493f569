"""The user's module inside the wrappers that compile or replicate it."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers, or the module itself."""
    while True:
        is_replicated = isinstance(model, (DataParallel, DistributedDataParallel))
        inner = model.module if is_replicated else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner
