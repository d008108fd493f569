"""The gradient that reaches queries and keys through the softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.kernels.grid import add, affine, dense, multiply
from dslm.kernels.linear import linear
from dslm.kernels.norm import norm_backward
from dslm.kernels.scores import (
    cap_slope,
    key_kernel,
    query_kernel,
    raw_keys,
    raw_queries,
    rotary_gain,
)
from dslm.kernels.sharpness import Sharpness, rooted
from dslm.masks.head_masks import Mask
from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, slots=True)
class ScoreTerms:
    r"""Terms that the gradients of queries and of keys have in common.

    Attributes:
        layer: the attention.
        queries, keys: kernels of the inputs of their norms, if any.
        query, key: the kernels Q and T of `dslm.kernels.scores`.
        slope: the share of a score gradient's energy that a soft cap passes.
        values: the value kernel V.
        averages: (keys, queries) means of V over the keys that a query sees.
        grand: (queries, queries) means of `averages` over the keys that a query sees.
        key_means: (queries, queries) means of T over the keys that two queries see.
        mask: the keys that each query sees.
        sharp: the weights' sharpness.
        gain: the energy of score gradients over that with uniform weights.
    """

    layer: Attention
    queries: Kernel
    keys: Kernel
    query: Kernel
    key: Kernel
    slope: float
    values: Kernel
    averages: Floats
    grand: Floats
    key_means: Floats
    mask: Mask
    sharp: Sharpness
    gain: Kernel

    def mean_over_keys(self, matrix: Floats, axis: int) -> Floats:
        """Return, for each query, the mean of `matrix` along `axis` over the keys it sees."""
        return _mean(self.mask, matrix, axis)


def score_terms(x: Kernel, memory: Kernel, sharp: Sharpness, layer: Attention) -> ScoreTerms:
    """Return the terms for queries from `x` and keys and values from `memory`."""
    mask = sharp.mask
    query, key = query_kernel(x, layer), key_kernel(memory, layer)
    values = linear(memory, layer.value)
    averages = _mean(mask, dense(values), 1)
    return ScoreTerms(
        layer=layer,
        queries=raw_queries(x, layer),
        keys=raw_keys(memory, layer),
        query=query,
        key=key,
        slope=cap_slope(query, key, layer),
        values=values,
        averages=averages,
        grand=_mean(mask, averages, 0),
        key_means=_mean(mask, _mean(mask, dense(key), 1), 0),
        mask=mask,
        sharp=sharp,
        gain=sharp.score_gradients(),
    )


def query_gradient(g: Kernel, terms: ScoreTerms) -> Kernel:
    r"""Return the gradient kernel of the queries, `g` being that of the attended values.

    With :math:`e_{ij} = g_i \cdot v_j`, the score gradient is
    :math:`a_{ij}(e_{ij} - \sum_k a_{ik} e_{ik})`, so over the keys j, k seen

    .. math:: G^q_{ii'} = G_{ii'} \sum_{jk} a_{ij} a_{i'k}\, \tilde V_{jk} T_{jk}

    with :math:`\tilde V` the value kernel less its averages over the keys that i and i' see, and T
    from `key_kernel`. These products are computed with uniform weights, and multiplied by
    `Sharpness.score_gradients` for weights that are not.

    Source: derived here.
    """
    mean, layer = terms.mean_over_keys, terms.layer
    product = mean(mean(dense(multiply(terms.values, terms.key)), 0), 1)
    cross = mean(terms.averages * mean(dense(terms.key), 1), 0)
    inner = terms.slope * (product - cross - cross.T + terms.grand * terms.key_means)
    diagonal = g.diagonal * np.diagonal(inner)
    uniform = replace(g, diagonal=diagonal, off_diagonal=g.off_diagonal * inner, mean=0.0)
    normed = add(multiply(uniform, terms.gain), multiply(g, _along(terms)))
    normed = _unrotated(normed, layer)
    return norm_backward(normed, terms.queries, layer.query_norm, layer.d_head)


def _unrotated(g: Kernel, layer: Attention) -> Kernel:
    """Return the gradient before the rotation, whose scale alone changes energies."""
    return g if layer.rotary is None else affine(g, rotary_gain(layer.rotary))


def _along(terms: ScoreTerms) -> Kernel:
    """Return the coherent term: values and keys are made of the same random features."""
    both = _spread(terms.values, terms.grand, terms) * _spread(terms.key, terms.key_means, terms)
    coherence = terms.sharp.coherence(terms.layer.key.d_in)
    return multiply(coherence, rooted(both * terms.slope))


def _spread(kernel: Kernel, means: Floats, terms: ScoreTerms) -> Floats:
    """Return (query cells,) the mean diagonal less the mean over pairs of keys, `means`."""
    diagonal = terms.mean_over_keys(kernel.diagonal, 0)
    return np.asarray(np.maximum(diagonal - np.diagonal(means), 0.0))


def key_gradient(g: Kernel, terms: ScoreTerms) -> Kernel:
    r"""Return the gradient kernel of the keys, `g` being that of the attended values.

    .. math:: G^k_{jk} = \sum_{ii'} G_{ii'} Q_{ii'}\, a_{ij} a_{i'k} \tilde V_{jk}

    Source: derived here, as `query_gradient`.
    """
    layer, n = terms.layer, terms.mask.keys_per_query
    passed = dense(multiply(multiply(g, terms.query), terms.gain))
    joint = passed * (layer.score_scale**2 * layer.d_head * terms.slope) / np.outer(n, n)
    total = terms.mask.queries
    first = total(joint, 0)
    of_values = total(first, 1)
    cross = total(terms.averages * first, 1)
    averaged = total(total(joint * terms.grand, 0), 1) - cross - cross.T
    values = terms.values  # not dense: within a cell, off_diagonal is that of pairs j≠k
    off_diagonal = values.off_diagonal * of_values + averaged
    diagonal = values.diagonal * np.diagonal(of_values) + np.diagonal(averaged)
    normed = _unrotated(Kernel(diagonal, off_diagonal, values.cell_sizes), layer)
    return norm_backward(normed, terms.keys, layer.key_norm, layer.d_head)


def _mean(mask: Mask, matrix: Floats, axis: int) -> Floats:
    shape = [1] * matrix.ndim
    shape[axis] = -1
    return mask.keys(matrix, axis) / mask.keys_per_query.reshape(shape)
