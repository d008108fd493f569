"""The attention branch on kernels."""

from __future__ import annotations

from dslm.kernels.grid import add, affine
from dslm.kernels.linear import linear, linear_backward
from dslm.kernels.score_gradient import key_gradient, query_gradient, score_terms
from dslm.kernels.softmax import AttentionWeights, attend, attend_backward
from dslm.spec import Attention, Kernel


def attention(memory: Kernel, weights: AttentionWeights, layer: Attention) -> Kernel:
    r"""Kernel of the attention branch's output; `memory` is what keys and values are made of.

    .. math:: K_{ii'} \to n_h d_h E[w_o^2] \sum_{jk} E[a_{ij} a_{i'k}]\,
        (d\,E[w_v^2] M_{jk} + E[b_v^2]) + E[b_o^2]

    Heads that share keys and values (GQA) add up the same, as their output weights differ.

    Source: arXiv 2403.09635, Table 1 (attention) in the uniform limit; kernels derived here.
    """
    values = linear(memory, layer.value)
    return linear(attend(weights, values, layer.value.d_in), layer.output)


def attention_backward(
    g: Kernel, x: Kernel, memory: Kernel, weights: AttentionWeights, layer: Attention
) -> tuple[Kernel, Kernel]:
    """Gradient kernels below the branch: at `x` through the queries, at `memory` the rest.

    Values and keys carry the rest. In self-attention all three add: their weights are
    independent. A key or value head collects the gradients of all query heads that share it.
    """
    heads = linear_backward(g, layer.output)
    share = layer.n_heads / layer.n_kv_heads
    through_values = affine(attend_backward(weights, heads), share)
    terms = score_terms(x, memory, weights.sharpness, layer)
    through_keys = affine(key_gradient(heads, terms), share)
    at_memory = add(
        linear_backward(through_values, layer.value), linear_backward(through_keys, layer.key)
    )
    return linear_backward(query_gradient(heads, terms), layer.query), at_memory
