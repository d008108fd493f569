r"""The row of moment sums in one pass over a CUDA tensor.

`moments` imports this where a tensor lies on such a device: it needs Triton. Three launches: the
sums of each run of tokens about the run's first token; the sums of each feature, moved back to
zero in float64, with the squares of its token sum; and their total.

:math:`\sum_{i \ne j} x_i \cdot x_j = |\sum_i x_i|^2 - \sum_i |x_i|^2` as everywhere, so no value
is read twice.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer_agent.capture.statistics.columns import COLUMNS

RUN = 256  # tokens summed in float32 before they are moved back
TOKENS, FEATURES = 16, 128  # of one tile


@triton.jit
def _sum_runs(
    x,
    real,
    sums,
    squares,
    firsts,
    nonfinites,
    counts,
    n_tokens,
    n_features,
    n_runs,
    batch_stride,
    token_stride,
    RUN: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Sums of one run of tokens of one sequence, for some features, about its first token."""
    sequence, run, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    feature = part * FEATURES + tl.arange(0, FEATURES)
    inside = feature < n_features
    start = run * RUN
    base = x + sequence.to(tl.int64) * batch_stride
    first = tl.load(base + start.to(tl.int64) * token_stride + feature, mask=inside, other=0.0)
    first = first.to(tl.float32)
    first = tl.where(tl.abs(first) < float("inf"), first, 0.0)
    total = tl.zeros((FEATURES,), tl.float32)
    square = tl.zeros((FEATURES,), tl.float32)
    nonfinite = tl.zeros((FEATURES,), tl.float32)
    count = tl.zeros((TOKENS,), tl.float32)
    for offset in range(0, RUN, TOKENS):
        token = start + offset + tl.arange(0, TOKENS)
        valid = token < n_tokens
        if MASKED:
            at = sequence.to(tl.int64) * n_tokens + token
            valid = valid & (tl.load(real + at, mask=valid, other=0) != 0)
        both = valid[:, None] & inside[None, :]
        at = token[:, None].to(tl.int64) * token_stride + feature[None, :]
        value = tl.load(base + at, mask=both, other=0.0).to(tl.float32)
        centred = tl.where(both, value - first[None, :], 0.0)
        total += tl.sum(centred, 0)
        square += tl.sum(centred * centred, 0)
        finite = tl.abs(value) < float("inf")  # NaN is below nothing
        nonfinite += tl.sum(tl.where(both & (finite == 0), 1.0, 0.0), 0)
        count += tl.where(valid, 1.0, 0.0)
    row = sequence.to(tl.int64) * n_runs + run
    tl.store(sums + row * n_features + feature, total, mask=inside)
    tl.store(squares + row * n_features + feature, square, mask=inside)
    tl.store(firsts + row * n_features + feature, first, mask=inside)
    tl.store(nonfinites + row * n_features + feature, nonfinite, mask=inside)
    if part == 0:
        tl.store(counts + row, tl.sum(count, 0))


@triton.jit
def _sum_features(
    sums,
    squares,
    firsts,
    nonfinites,
    counts,
    rows,
    n_features,
    n_runs,
    FEATURES: tl.constexpr,
):
    """The six sums of some features of one sequence, about zero."""
    sequence, part = tl.program_id(0), tl.program_id(1)
    feature = part * FEATURES + tl.arange(0, FEATURES)
    inside = feature < n_features
    total = tl.zeros((FEATURES,), tl.float64)
    square = tl.zeros((FEATURES,), tl.float64)
    nonfinite = tl.zeros((FEATURES,), tl.float64)
    tokens = tl.zeros((FEATURES,), tl.float64)
    for run in range(0, n_runs):
        row = sequence.to(tl.int64) * n_runs + run
        at = row * n_features + feature
        n = tl.load(counts + row).to(tl.float64)
        first = tl.load(firsts + at, mask=inside, other=0.0).to(tl.float64)
        about = tl.load(sums + at, mask=inside, other=0.0).to(tl.float64)
        centred_square = tl.load(squares + at, mask=inside, other=0.0).to(tl.float64)
        total += about + n * first
        square += centred_square + 2.0 * first * about + n * first * first
        nonfinite += tl.load(nonfinites + at, mask=inside, other=0.0).to(tl.float64)
        tokens += tl.where(inside, n, 0.0)
    row = rows + (sequence * tl.num_programs(1) + part) * 6
    tl.store(row, tl.sum(tokens, 0))
    tl.store(row + 1, tl.sum(total, 0))
    tl.store(row + 2, tl.sum(square, 0))
    tl.store(row + 3, tl.sum(tokens * (tokens - 1.0), 0))
    tl.store(row + 4, tl.sum(total * total - square, 0))
    tl.store(row + 5, tl.sum(nonfinite, 0))


def takes(x: Tensor) -> bool:
    """Whether `triton_row` takes this tensor: (batch, seq, features), features side by side."""
    dtype_fits = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return dtype_fits and x.ndim == 3 and x.stride(2) == 1 and x.numel() > 0


def triton_row(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The row of `moments.moment_row`, (6,) in float64, with no value brought to the host.

    Args:
        x: (batch, seq, features) in float32, bfloat16 or float16; `takes` must hold.
        mask: (batch, seq), true or non-zero at real tokens, on the same device; or None.
    """
    batch, seq, features = x.shape
    n_runs, n_parts = triton.cdiv(seq, RUN), triton.cdiv(features, FEATURES)
    scratch = torch.empty((4, batch, n_runs, features), dtype=torch.float32, device=x.device)
    counts = torch.empty((batch, n_runs), dtype=torch.float32, device=x.device)
    rows = torch.empty((batch * n_parts, COLUMNS), dtype=torch.float64, device=x.device)
    real: Any = x if mask is None else mask.to(x.device).ne(0).contiguous().view(torch.uint8)
    _sum_runs[batch, n_runs, n_parts](
        x,
        real,
        *scratch.unbind(0),
        counts,
        seq,
        features,
        n_runs,
        x.stride(0),
        x.stride(1),
        RUN=RUN,
        TOKENS=TOKENS,
        FEATURES=FEATURES,
        MASKED=mask is not None,
    )
    _sum_features[batch, n_parts](
        *scratch.unbind(0), counts, rows, features, n_runs, FEATURES=FEATURES
    )
    return rows.sum(0)
