"""Second moments of attention weights, and sums over keys and queries weighed by them, in O(L²)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dslm.kernels.chebyshev import Interpolation, interpolation
from dslm.kernels.grid import add, affine, multiply, prepare
from dslm.kernels.scores import capped_keys, key_kernel, query_kernel
from dslm.kernels.sharpness import Sharpness, rooted, sharpness, spread_over_keys
from dslm.masks.head_masks import Mask, head_masks
from dslm.spec import Attention, Floats, Kernel

CACHED = 2**14  # numbers of an array that stays in a processor's second-level cache


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    r"""The pair moments of softmax weights, whose numerators are log-normal.

    .. math:: E[a_{ij} a_{i'k}] = e^{Q_{ii'} T_{jk}} / Z_{ii'}, \quad
        Z_{ii'} = \sum_{jk\ seen} e^{Q_{ii'} T_{jk}}

    Q is tempered for the fluctuations of the softmax's own denominator (`dslm.kernels.sharpness`).

    Source: log-normal weights, derived here for pairs of queries. Exact as scores become small,
    and at any score variance for keys of equal correlation and one query.

    Attributes:
        queries: the kernel Q, tempered.
        sharpness: the overlaps that it was tempered to.
        mask: the keys that each query sees.
        pairs: interpolation of exp in T_jk, j≠k; (m, cells, cells).
        diagonal: interpolation of exp in T_jj; (m, cells).
        total: the normaliser Z, as a kernel over queries.
        p_drop: dropout on the weights.
        share: share of the heads that have these weights.
    """

    queries: Kernel
    sharpness: Sharpness
    mask: Mask
    pairs: Interpolation
    diagonal: Interpolation
    total: Kernel
    p_drop: float
    share: float = 1.0


Heads = tuple[AttentionWeights, ...]  # one for each group of heads; their shares add up to 1


def attention_weights(x: Kernel, memory: Kernel, attention: Attention) -> Heads:
    """Return the weights' pair moments for queries from `x` and keys from `memory`."""
    queries, keys = query_kernel(x, attention), key_kernel(memory, attention)
    keys = capped_keys(queries, keys, attention)
    # a norm on the queries fixes their lengths, which otherwise scatter with d_head features
    d_head = np.inf if attention.query_norm is not None else attention.d_head
    masks = head_masks(x, memory, attention)
    shares = [share for share, _ in masks]
    sharp = [sharpness(queries, keys, mask, d_head) for _, mask in masks]
    return _weights(keys, sharp, shares, attention.p_drop)


def mean_over_heads(heads: Heads, of: Callable[[AttentionWeights], Kernel]) -> Kernel:
    """Return the mean over heads of the kernel that `of` returns for a group's weights."""
    total = of(heads[0])
    if len(heads) == 1:
        return total
    total = affine(total, heads[0].share)
    for group in heads[1:]:
        total = add(total, of(group), 1.0, group.share)
    return total


def _weights(keys: Kernel, sharp: list[Sharpness], shares: list[float], p_drop: float) -> Heads:
    tempered = [_without_lone_keys(group) for group in sharp]
    # the same interpolations serve all queries of all heads
    every_q = np.concatenate([np.append(q.off_diagonal, q.diagonal) for q in tempered])
    pairs = interpolation(_within_pairs(keys), every_q)
    diagonal = interpolation(keys.diagonal, every_q)
    ones = affine(keys, 0.0, 1.0)
    heads = []
    for queries, group, share in zip(tempered, sharp, shares, strict=True):
        weights = AttentionWeights(
            queries=queries,
            sharpness=group,
            mask=group.mask,
            pairs=pairs,
            diagonal=diagonal,
            total=queries,
            p_drop=p_drop,
            share=share,
        )
        heads.append(replace(weights, total=_key_sums(weights, ones)[0]))
    return tuple(heads)


def _without_lone_keys(sharp: Sharpness) -> Kernel:
    """Return the tempered Q, with a typical value where a query sees a single key.

    Such a weight is 1 whatever its exponent, which no softmax bounds: it would cost many nodes.
    """
    queries = sharp.tempered()
    lone = sharp.mask.keys_per_query <= 1
    typical = np.median(queries.diagonal[~lone]) if not lone.all() else 0.0
    return prepare(replace(queries, diagonal=np.where(lone, typical, queries.diagonal)))


def _within_pairs(keys: Kernel) -> Floats:
    """Return T_jk, entries that are never read brought within the range of those that are.

    They hold the diagonal's values, which are larger, and every node costs a pass over all keys.
    """
    pairs = keys.off_diagonal.copy()
    single = _single(keys)
    pairs[single, single] = np.nan
    middle = (np.nanmin(pairs) + np.nanmax(pairs)) / 2 if len(single) < pairs.size else 0.0
    pairs[single, single] = middle
    return pairs


def _single(kernel: Kernel) -> NDArray[np.int64]:
    """Return the indices of cells of one token, which hold no pairs of their own."""
    return np.flatnonzero(kernel.cell_sizes == 1)


def attend(weights: AttentionWeights, values: Kernel, d_model: int) -> Kernel:
    r"""Return the kernel of the attended values, :math:`\sum_{jk} E[a_{ij} a_{i'k}] K_{jk}`.

    Dropout on the weights is independent for every (i, j): it adds p/(1-p) of the j=k part for
    i=i'. The keys' coherent sum over `d_model` features adds `Sharpness.coherence` times the
    values' spread and the scores' covariance.
    """
    summed, same_key = _key_sums(weights, values)
    dropped = weights.p_drop / (1 - weights.p_drop) * same_key
    total = weights.total
    diagonal = (summed.diagonal + dropped) / total.diagonal
    mixed = replace(
        summed, diagonal=diagonal, off_diagonal=summed.off_diagonal / total.off_diagonal
    )
    sharp = weights.sharpness
    along = multiply(sharp.covariances(), sharp.coherence(d_model))
    return add(mixed, multiply(along, rooted(spread_over_keys(values, weights.mask))))


def attend_backward(weights: AttentionWeights, g: Kernel) -> Kernel:
    r"""Return the gradient kernel of the values, :math:`\sum_{ii'} E[a_{ij} a_{i'k}] G_{ii'}`."""
    mask = weights.mask
    n = len(mask.key_sizes)
    off_diagonal, diagonal = np.zeros((n, n)), np.zeros(n)
    for basis, on, off in _query_terms(weights, weights.pairs, g):
        off_diagonal += _over_nodes(basis, mask.all_queries(on, off))
    dropped = weights.p_drop / (1 - weights.p_drop)
    for basis, on, off in _query_terms(weights, weights.diagonal, g):
        sums = np.diagonal(mask.all_queries(on, off), axis1=-2, axis2=-1)
        diagonal += _over_nodes(basis, sums + dropped * mask.squares_over_queries(on))
    return prepare(Kernel(diagonal, off_diagonal, mask.key_sizes.astype(np.int64)))


def _key_sums(weights: AttentionWeights, values: Kernel) -> tuple[Kernel, Floats]:
    """Return unnormalised sums over the keys in sight, and their j=k part for i=i'."""
    mask, queries = weights.mask, weights.queries
    diagonal, same_key = np.zeros_like(queries.diagonal), np.zeros_like(queries.diagonal)
    off_diagonal = np.zeros_like(queries.off_diagonal)
    pairs = _pairs_alone(values)
    for basis, on, off in _node_factors(weights, weights.pairs):
        sums = mask.key_pairs(basis * pairs)
        diagonal += _over_nodes(on, np.diagonal(sums, axis1=-2, axis2=-1))
        off_diagonal += _over_nodes(off, sums)
    for basis, on, off in _node_factors(weights, weights.diagonal):
        sums = mask.common_keys(basis * values.diagonal)
        same_key += _over_nodes(on, np.diagonal(sums, axis1=-2, axis2=-1))
        off_diagonal += _over_nodes(off, sums)
    summed = replace(queries, diagonal=diagonal + same_key, off_diagonal=off_diagonal, mean=0.0)
    return prepare(summed), same_key


def _over_nodes(a: Floats, b: Floats) -> Floats:
    """Return the sum over the leading axis of the product."""
    return np.asarray(np.einsum("m...,m...->...", a, b))


def _pairs_alone(kernel: Kernel) -> Floats:
    """Return (cells, cells) the kernel of pairs, 0 where a cell has none: sums skip these then."""
    pairs = kernel.off_diagonal.copy()
    single = _single(kernel)
    pairs[single, single] = 0.0
    return pairs


def _query_terms(
    weights: AttentionWeights, nodes: Interpolation, g: Kernel
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Yield what `_node_factors` does, times G / Z; a cell's single token is in both arrays."""
    on_scale = g.diagonal / weights.total.diagonal
    off_scale = g.off_diagonal / weights.total.off_diagonal
    single = _single(g)
    for basis, on_factors, off_factors in _node_factors(weights, nodes):
        on, off = on_factors * on_scale, off_factors * off_scale
        off[:, single, single] = on[:, single]
        yield basis, on, off


def _node_factors(
    weights: AttentionWeights, nodes: Interpolation
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Yield bases of a few nodes and what they are multiplied by, its largest exponent taken off.

    The arrays of factors are (nodes, cells) for i=i' and (nodes, cells, cells). The normaliser
    lacks the same factor, so the quotient is exact and nothing overflows.
    """
    q_on, q_off = weights.queries.diagonal, weights.queries.off_diagonal
    every = np.concatenate([weights.pairs.nodes, weights.diagonal.nodes])
    low, high = every.min(), every.max()
    top_on, top_off = np.maximum(q_on * low, q_on * high), np.maximum(q_off * low, q_off * high)
    at_once = max(CACHED // q_off.size, 1)
    for first in range(0, len(nodes.nodes), at_once):
        part = slice(first, first + at_once)
        on, off = nodes.exponents(q_on, part), nodes.exponents(q_off, part)
        yield nodes.basis[part], np.exp(on - top_on), np.exp(off - top_off)
