"""Statistics of logits: of a sample of each attention call, and of the final softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_agent.capture.statistics.accumulator import Accumulator

MAX_QUERIES = 8
MAX_SEQUENCES = 4
# Masks written as numbers use very negative ones in place of -inf.
MASKED_BELOW = -1e9
# Values held back. Measured on 24 layers of 8,192 logits, CPU: 3.4 ms one by one, 1.1 ms by this
# limit, 2 ms and more all at once, because tensors past 256 KiB come as fresh pages each time.
PENDING_VALUES = 1 << 16
# Tokens of a batch whose log Z stands for that of all.
LOG_Z_TOKENS = 256


@dataclass(frozen=True, slots=True)
class QuerySample:
    """Some queries of one attention call, and what their logits follow from.

    Attributes:
        query: (batch', heads, queries', features), or the scores themselves without `key`.
        key: (batch', key heads, keys, features), or None.
        mask: (batch', heads, queries', keys), boolean or added, or None.
        future: the sampled queries where attention looks back only, or None.
        cap: logits are cap * tanh(q·k·scale / cap) before masks, or None.
        of: how many sequences and queries the whole call has, or None.
    """

    query: Tensor
    key: Tensor | None
    mask: Tensor | None
    scale: float
    future: slice | None
    cap: float | None = None
    of: tuple[int, int] | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be alike for calls to be computed together."""
        shapes = [None if t is None else (t.shape, t.dtype, t.device) for t in self._tensors]
        return *shapes, self.scale, self.future, self.cap

    @property
    def size(self) -> int:
        """Number of logits."""
        keys = self.query.shape[-1] if self.key is None else self.key.shape[-2]
        return math.prod(self.query.shape[:-1]) * keys

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.query, self.key, self.mask


@torch.no_grad()
def sampled_logits(  # noqa: PLR0917  the order is torch's
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001
) -> QuerySample:
    """Some queries and all their keys; takes what `scaled_dot_product_attention` takes.

    Views, not copies: autograd keeps both tensors for the backward pass as it is.
    """
    queries, sequences = (
        evenly(query.shape[-2], MAX_QUERIES),
        evenly(query.shape[0], MAX_SEQUENCES),
    )
    mask = attn_mask
    if mask is not None:
        mask = mask.detach().expand(*query.shape[:-1], key.shape[-2])[sequences][..., queries, :]
    return QuerySample(
        query=query.detach()[sequences][..., queries, :],
        key=key.detach()[sequences],
        mask=mask,
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else scale,
        future=queries if is_causal else None,
        of=(query.shape[0], query.shape[-2]),
    )


@torch.no_grad()
def sampled_scores(scores: Tensor) -> QuerySample:
    """The same of scores already computed, (batch, heads, queries, keys)."""
    queries, sequences = (
        evenly(scores.shape[-2], MAX_QUERIES),
        evenly(scores.shape[0], MAX_SEQUENCES),
    )
    # Softmax may write into what it was given: take a copy.
    sampled = scores.detach()[sequences][..., queries, :].clone()
    of = scores.shape[0], scores.shape[-2]
    return QuerySample(query=sampled, key=None, mask=None, scale=1.0, future=None, of=of)


@torch.no_grad()
def logits_of(calls: Sequence[QuerySample]) -> Tensor:
    """q·k·scale of calls of one kind, -inf where masked; (calls, batch', heads, queries', keys)."""
    first = calls[0]
    queries = torch.stack([call.query for call in calls]).float()
    if first.key is None:
        return queries
    keys = torch.stack([call.key for call in calls if call.key is not None]).float()
    if keys.shape[-3] != queries.shape[-3]:  # grouped queries
        keys = keys.repeat_interleave(queries.shape[-3] // keys.shape[-3], dim=-3)
    with torch.autocast(keys.device.type, enabled=False):  # the job's may be on
        logits = (queries @ keys.transpose(-2, -1)).mul_(first.scale)
    if first.cap is not None:
        logits.div_(first.cap).tanh_().mul_(first.cap)
    if first.future is not None:
        logits.masked_fill_(future(first.future, keys.shape[-2], keys.device), float("-inf"))
    if first.mask is None:
        return logits
    masks = torch.stack([call.mask for call in calls if call.mask is not None])
    if masks.dtype == torch.bool:
        return logits.masked_fill_(~masks, float("-inf"))
    return logits.add_(masks)


@torch.no_grad()
def logit_sums(logits: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sums over the allowed logits of several layers, and their maximum.

    Args:
        logits: (layers, batch, heads, queries, keys), -inf or below -1e9 where masked.
        wide: type of the sums.

    Returns:
        (layers, 5): count, sum, squares, entropy count, entropy sum; and (layers,) maxima.
    """
    masked = logits <= MASKED_BELOW  # NaN is not: it is data
    allowed = logits.masked_fill(masked, 0.0)
    highest = logits.amax(-1)
    weights = torch.softmax(logits, -1)
    # -sum a log a with a = softmax(s) is log-sum-exp less the mean of s under a, and the largest
    # weight is exp(highest - log-sum-exp).
    entropy = highest - weights.amax(-1).log() - (weights * allowed).sum(-1)
    blind = highest <= MASKED_BELOW
    # Rows are summed in float32, rows of a layer in the wide type: no wide copy of everything.
    per_row = [
        masked.shape[-1] - masked.sum(-1),
        allowed.sum(-1),
        allowed.square_().sum(-1),
        ~blind,
        entropy.masked_fill(blind, 0.0),
    ]
    sums = torch.stack([column.flatten(1).sum(1, dtype=wide) for column in per_row], dim=1)
    return sums, highest.flatten(1).amax(1)


def future(queries: slice, keys: int, device: torch.device) -> Tensor:
    """Keys that come after each of the sampled queries, (queries', keys)."""
    positions = torch.arange(keys, device=device)
    return positions > positions[queries].unsqueeze(-1)


def evenly(n: int, most: int) -> slice:
    """At most `most` indices evenly spread over n, the last one always among them."""
    stride = -(-n // most)
    return slice((n - 1) % stride, n, stride)


class PendingLogits:
    """Collects the attention calls of several layers, to compute them together.

    Many small tensors cost a call of torch each. A bound on their size limits what waits for the
    end of the forward pass.
    """

    def __init__(self, accumulator: Accumulator, heads: int = 0) -> None:
        """Sum over each of so many heads of a layer, or over all heads together."""
        self._accumulator, self._heads = accumulator, heads
        self._rows: list[int] = []
        self._calls: list[QuerySample] = []
        self._size = 0

    def add(self, row: int, call: QuerySample) -> None:
        """Take the call of one layer."""
        if self._calls and (call.kind != self._calls[0].kind or row in self._rows):
            self.flush()
        self._rows.append(row)
        self._calls.append(call)
        self._size += call.size
        if self._size >= PENDING_VALUES:
            self.flush()

    def adopt(self, other: PendingLogits, rows: Mapping[int, int]) -> None:
        """Take over the calls that another one has collected, by the rows that they have here."""
        for row, call in zip(other._rows, other._calls, strict=True):
            if row in rows:
                self.add(rows[row], call)

    def flush(self) -> None:
        """Sum over the calls collected."""
        rows, calls = self._rows, self._calls
        self._rows, self._calls, self._size = [], [], 0
        if calls:
            logits = logits_of(calls)
            if logits.shape[2] == self._heads:
                logits = logits.transpose(1, 2).flatten(0, 1)  # a head is summed like a layer
            sums, largest = logit_sums(logits, self._accumulator.wide)
            self._accumulator.add_logits(rows, sums, largest)


@torch.no_grad()
def log_z_sums(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count, sum and squares of log Z over at most 256 tokens, (3,).

    Args:
        logits: (batch, seq, vocabulary), or (tokens, vocabulary); any floating type.
        mask: (batch, seq), true or non-zero at real tokens.
    """
    final = torch.float32 if logits.device.type == "mps" else torch.float64
    rows = logits.detach().flatten(0, -2)
    stride = -(-len(rows) // LOG_Z_TOKENS)
    log_z = torch.logsumexp(rows[::stride].float(), -1).to(final)
    if mask is None:
        real = torch.ones_like(log_z)
    else:
        real = mask.to(device=logits.device, dtype=torch.bool).reshape(-1)[::stride].to(final)
        log_z = torch.where(real > 0, log_z, 0.0)
    return torch.stack([real.sum(), log_z.sum(), log_z.square().sum()])
