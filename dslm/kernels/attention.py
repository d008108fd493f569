"""The attention branch on kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslm.kernels.grid import add, affine
from dslm.kernels.linear import linear, linear_backward
from dslm.kernels.score_gradient import key_gradient, query_gradient, score_terms
from dslm.kernels.softmax import AttentionWeights, Heads, attend, attend_backward, mean_over_heads
from dslm.spec import Attention, Kernel


def attention(memory: Kernel, heads: Heads, layer: Attention) -> Kernel:
    r"""Return the kernel of the attention branch's output, keys and values made of `memory`.

    .. math:: K_{ii'} \to n_h d_h E[w_o^2] \sum_{jk} E[a_{ij} a_{i'k}]\,
        (d\,E[w_v^2] M_{jk} + E[b_v^2]) + E[b_o^2]

    Heads that share keys and values (GQA) add up in the same way, as their output weights differ.
    Where position biases differ between heads, their mean counts: their weights are independent.

    Source: arXiv 2403.09635, Table 1 (attention) in the uniform limit; kernels derived here.
    """
    values = linear(memory, layer.value)
    mixed = mean_over_heads(heads, lambda group: attend(group, values, layer.value.d_in))
    return linear(_beside_sink(mixed, heads[0], layer), layer.output)


def _beside_sink(mixed: Kernel, weights: AttentionWeights, layer: Attention) -> Kernel:
    r"""Return `mixed`, forward or backward, with the share of each softmax that its keys have.

    .. math:: a_{ij} \to \frac{Z_i}{Z_i + e^b}\, a_{ij}, \quad Z_i \approx n_i e^{s_i/2}

    for n_i keys of scores of variance s_i.

    Source: derived here; fluctuations of Z_i left out.
    """
    if layer.sink == 0:
        return mixed
    with np.errstate(over="ignore"):
        total = weights.mask.keys_per_query * np.exp(weights.sharpness.covariance / 2)
        share = 1 / (1 + layer.sink / total)
    off_diagonal = mixed.off_diagonal * np.outer(share, share)
    return replace(mixed, diagonal=mixed.diagonal * share**2, off_diagonal=off_diagonal)


def attention_backward(
    g: Kernel, x: Kernel, memory: Kernel, heads: Heads, layer: Attention
) -> tuple[Kernel, Kernel]:
    """Return the gradient kernels (at `x`, at `memory`) below the branch.

    Queries carry the gradient to `x`, values and keys to `memory`. In self-attention the two add
    up, as the projections' weights are independent. A key or value head receives the gradients of
    all query heads that share it.
    """
    mixed = _beside_sink(linear_backward(g, layer.output), heads[0], layer)
    share = layer.n_heads / layer.n_kv_heads
    # the terms serve both gradients; groups of arrays are not hashable, so by identity
    terms = {id(group): score_terms(x, memory, group.sharpness, layer) for group in heads}

    def of_values(group: AttentionWeights) -> Kernel:
        return attend_backward(group, mixed)

    def of_keys(group: AttentionWeights) -> Kernel:
        return key_gradient(mixed, terms[id(group)])

    def of_queries(group: AttentionWeights) -> Kernel:
        return query_gradient(mixed, terms[id(group)])

    through_values = affine(mean_over_heads(heads, of_values), share)
    through_keys = affine(mean_over_heads(heads, of_keys), share)
    at_memory = add(
        linear_backward(through_values, layer.value), linear_backward(through_keys, layer.key)
    )
    return linear_backward(mean_over_heads(heads, of_queries), layer.query), at_memory
