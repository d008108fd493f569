"""The gradient that reaches queries and keys through the softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.kernels.grid import add, dense, multiply
from dslm.kernels.linear import linear
from dslm.kernels.norm import norm_backward
from dslm.kernels.scores import cap_slope, key_kernel, query_kernel, raw_keys, raw_queries
from dslm.kernels.sharpness import Sharpness, rooted, spread_over_keys
from dslm.kernels.visibility import Visibility, visibility
from dslm.spec import Attention, Floats, Kernel


def query_gradient(
    g: Kernel, x: Kernel, memory: Kernel, sharp: Sharpness, layer: Attention
) -> Kernel:
    r"""Gradient kernel of the queries, `g` being that of the attended values.

    With :math:`e_{ij} = g_i \cdot v_j`, the score gradient is
    :math:`a_{ij}(e_{ij} - \sum_k a_{ik} e_{ik})`, so over the keys j, k seen

    .. math:: G^q_{ii'} = G_{ii'} \sum_{jk} a_{ij} a_{i'k}\, \tilde V_{jk} T_{jk}

    with :math:`\tilde V` the value kernel less its averages over what i and i' see, and T from
    `key_kernel`. Which keys share what is taken from uniform weights; how much larger these
    products are with the weights as sharp as they are, from `Sharpness.score_gradients`.

    Source: derived here.
    """
    parts = _centred_values(x, memory, layer)
    key = key_kernel(memory, layer)
    slope = cap_slope(query_kernel(x, layer), key, layer)
    keys = dense(key) * slope
    mean = parts.mean_over_keys
    both = dense(multiply(linear(memory, layer.value), key)) * slope
    product = mean(mean(both, 0), 1)
    cross = mean(parts.averages * mean(keys, 1), 0)
    inner = product - cross - cross.T + parts.grand * mean(mean(keys, 0), 1)
    diagonal = g.diagonal * np.diagonal(inner)
    uniform = replace(g, diagonal=diagonal, off_diagonal=g.off_diagonal * inner, mean=0.0)
    sharpened = multiply(uniform, sharp.score_gradients())
    normed = add(sharpened, multiply(g, _along(key, memory, slope, sharp, layer)))
    return norm_backward(normed, raw_queries(x, layer), layer.query_norm, layer.d_head)


def _along(key: Kernel, memory: Kernel, slope: float, sharp: Sharpness, layer: Attention) -> Kernel:
    """Return the share of values and keys that are of the same random features."""
    seen = sharp.seen
    both = spread_over_keys(linear(memory, layer.value), seen) * spread_over_keys(key, seen)
    return multiply(sharp.coherence(layer.key.d_in), rooted(both * slope))


def key_gradient(
    g: Kernel, x: Kernel, memory: Kernel, sharp: Sharpness, layer: Attention
) -> Kernel:
    r"""Gradient kernel of the keys.

    .. math:: G^k_{jk} = \sum_{ii'} G_{ii'} Q_{ii'}\, a_{ij} a_{i'k} \tilde V_{jk}

    Source: derived here, as `query_gradient`.
    """
    parts = _centred_values(x, memory, layer)
    query = query_kernel(x, layer)
    slope = cap_slope(query, key_kernel(memory, layer), layer)
    passed = multiply(multiply(g, query), sharp.score_gradients())
    joint = (
        dense(passed)
        * layer.score_scale**2
        * layer.d_head
        * slope
        / np.outer(parts.n_seen, parts.n_seen)
    )
    total = parts.seen.queries
    first = total(joint, 0)
    own = total(total(joint, 0), 1)
    cross = total(parts.averages * first, 1)
    values = linear(memory, layer.value)  # not dense: a cell's own entry is of its pairs j≠k
    averaged = total(total(joint * parts.grand, 0), 1) - cross - cross.T
    off_diagonal = values.off_diagonal * own + averaged
    diagonal = values.diagonal * np.diagonal(own) + np.diagonal(averaged)
    normed = Kernel(diagonal, off_diagonal, memory.cell_sizes)
    return norm_backward(normed, raw_keys(memory, layer), layer.key_norm, layer.d_head)


@dataclass(frozen=True, slots=True)
class _CentredValues:
    """The value kernel and its averages over the keys that queries see.

    Attributes:
        values: (keys, keys). averages: (keys, queries). grand: (queries, queries).
        n_seen: (queries,) keys seen.
    """

    seen: Visibility
    n_seen: Floats
    values: Floats
    averages: Floats
    grand: Floats

    def mean_over_keys(self, matrix: Floats, axis: int) -> Floats:
        shape = (-1, 1) if axis == 0 else (1, -1)
        return self.seen.keys(matrix, axis) / self.n_seen.reshape(shape)


def _centred_values(x: Kernel, memory: Kernel, layer: Attention) -> _CentredValues:
    seen = visibility(x, memory, layer)
    n_seen = seen.n_seen
    values = dense(linear(memory, layer.value))
    averages = seen.keys(values, 1) / n_seen[None, :]
    grand = seen.keys(averages, 0) / n_seen[:, None]
    return _CentredValues(seen, n_seen, values, averages, grand)
