"""What differs between two outcomes, to the bit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harmless.job import Outcome


def differences(bare: Outcome, watched: Outcome) -> list[str]:
    """The names of everything that the agent changed; empty where it changed nothing."""
    return list(_differences(bare, watched))


def _differences(bare: Outcome, watched: Outcome) -> Iterator[str]:
    if not _equal(bare.losses, watched.losses):
        yield "losses"
    if bare.raised != watched.raised:
        yield f"raised: {bare.raised or 'nothing'}, watched {watched.raised or 'nothing'}"
    if bare.graph_sizes != watched.graph_sizes:
        yield f"sizes of autograd graphs: {bare.graph_sizes}, watched {watched.graph_sizes}"
    if bare.calls != watched.calls:
        yield f"calls of the job's hooks: {dict(bare.calls)}, watched {dict(watched.calls)}"
    for name in sorted(bare.state.keys() | watched.state.keys()):
        if name not in bare.state or name not in watched.state:
            yield f"{name}: only {'with' if name in watched.state else 'without'} the agent"
        elif not _equal(bare.state[name], watched.state[name]):
            yield name


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return (
            same
            and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
            and bool((a.isnan() == b.isnan()).all())
        )
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple, deque)) and isinstance(b, (list, tuple, deque)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float, str, bool, bytes, torch.dtype, type(None))):
        return type(a) is type(b) and (a == b or repr(a) == repr(b) == "nan")
    # Objects of the two models (modules, functions, configs) are each model's own.
    return type(a) is type(b) or isinstance(a, nn.Module)
