"""An attention branch, propagated through its actual weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslm.directions.mixture import Branch, BranchInput, Dense, Mixture, transform
from dslm.duals.partition import concentration
from dslm.spec import Floats


@dataclass(frozen=True, slots=True)
class Projections:
    """Multi-head attention of a stream to itself; a head is d_out / n_heads adjacent features.

    Attributes:
        query, key, value, output: the dense layers.
        n_heads: number of heads, the same for queries and keys.
        causal: whether token i sees only tokens up to i.
        score_scale: factor on q·k.
        p_drop: dropout on the attention weights.
    """

    query: Dense
    key: Dense
    value: Dense
    output: Dense
    n_heads: int
    causal: bool
    score_scale: float
    p_drop: float = 0.0


def attend(reading: BranchInput, layer: Projections, seq_len: int) -> Branch:
    r"""Return the output of attention over `seq_len` tokens, at least two.

    Tokens fluctuate within a sequence with covariance :math:`F = E[x x^T] - X`. By Stein's lemma,
    a query q on Gaussian tokens attends to

    .. math:: \sum_j a_j v_j = \bar v + (1 - D)\, c\, W_v F W_k^T q + \text{noise}

    where c is the score scale. The second term is a linear map T of the query's token. The noise
    of two heads h, g has covariance :math:`D_{hg} W_v F W_v^T`; :math:`D_{hg}` is the overlap of
    their weights (`dslm.duals.partition`) for scores of covariance
    :math:`c^2 tr(E[q_h q_g^T] W_k F W_k^T)`.

    Source: derived here.
    """
    x, stream_mean = reading.x, reading.stream_mean
    fluctuating = x.second_moment - x.cross
    overlap, other, steer = _overlaps(reading, layer, fluctuating, seq_len)
    values, wv, wo = layer.value, layer.value.weight, layer.output.weight
    constant = values.bias + steer @ layer.query.bias
    toward = steer @ layer.query.weight
    noise = wv @ fluctuating @ wv.T
    self_weight, other_weight = _uniform(seq_len, causal=layer.causal)
    jacobian = wo @ (self_weight * wv + toward)
    mean_heads = wv @ x.mean + toward @ x.mean + constant
    means = mean_heads @ wo.T + layer.output.bias + (x.means - x.mean) @ jacobian.T
    both = Dense(wv, constant)
    shared = transform(x.cross, x.mean, both) + _pulled(toward, x.mean, wv, constant)
    second_moment = shared + toward @ x.second_moment @ toward.T + overlap * noise
    second_moment += layer.p_drop / (1 - layer.p_drop) * _dropped(overlap, x, layer)
    cross = shared + toward @ x.cross @ toward.T + other * noise
    output_moment = transform(second_moment, mean_heads, layer.output)
    within = output_moment - (x.shares[:, None] * means).T @ means
    y = Mixture(x.shares, means, within, transform(cross, mean_heads, layer.output))
    across = reading.cross_with_stream - np.outer(x.mean, stream_mean)
    at_token = reading.token_with_stream - np.outer(x.mean, stream_mean)
    mixed = wv @ (other_weight * at_token + (1 - other_weight) * across) + toward @ across
    crossed = wo @ mixed + np.outer(y.mean, stream_mean)
    return Branch(y, jacobian @ reading.with_stream, crossed)


def _pulled(toward: Floats, mean: Floats, wv: Floats, constant: Floats) -> Floats:
    """Return the products of the mean value and of T's mean output, in both orders."""
    pulled = np.outer(wv @ mean + constant, toward @ mean)
    return np.asarray(pulled + pulled.T)


def _dropped(overlap: Floats, x: Mixture, layer: Projections) -> Floats:
    """Return what dropout on the weights adds; its masks are independent between heads."""
    head = np.arange(layer.n_heads).repeat(len(overlap) // layer.n_heads)
    same = head[:, None] == head[None, :]
    return np.asarray(same * overlap * transform(x.second_moment, x.mean, layer.value))


def _overlaps(
    reading: BranchInput, layer: Projections, fluctuating: Floats, seq_len: int
) -> tuple[Floats, Floats, Floats]:
    """Return, over head features, the overlaps of the weights of one token and of two tokens, and
    the matrix that maps a query to the second term of `attend`.
    """
    x, n, scale = reading.x, layer.n_heads, layer.score_scale
    same_token = transform(x.second_moment, x.mean, layer.query)
    two_tokens = transform(x.cross, x.mean, layer.query)
    keys = layer.key.weight @ fluctuating @ layer.key.weight.T
    width = len(same_token) // n
    both = [_by_head(q * keys, n, width) * scale**2 for q in (same_token, two_tokens)]
    sizes = np.sqrt(np.maximum(np.diagonal(both[0]), 1e-12))  # std of each head's scores
    counts = np.arange(1.0, seq_len + 1) if layer.causal else np.full(seq_len, float(seq_len))
    pairs = np.arange(seq_len, dtype=np.float64) if layer.causal else np.ones(seq_len)
    overlap = _mean_overlap(both[0], sizes, counts, np.ones(seq_len))
    other = _mean_overlap(both[1], sizes, counts, pairs)
    steer = layer.value.weight @ fluctuating @ layer.key.weight.T * scale
    same = np.kron(np.eye(n), np.ones((width, width)))
    spread_out = np.repeat(1 - np.diagonal(overlap), width)
    blown = np.ones((width, width))
    collected: Floats = spread_out[:, None] * same * steer
    return np.asarray(np.kron(overlap, blown)), np.asarray(np.kron(other, blown)), collected


def _by_head(product: Floats, n: int, width: int) -> Floats:
    return np.asarray(product.reshape(n, width, n, width).sum((1, 3)))


def _mean_overlap(scores: Floats, sizes: Floats, counts: Floats, weights: Floats) -> Floats:
    """Return E[a·a'] averaged over queries, (heads, heads)."""
    overlaps = np.zeros_like(scores)
    # the table of overlaps begins at 1.1 keys; a query that sees one key has overlap 1
    several = np.maximum(counts, 1.1)
    for (h, g), covariance in np.ndenumerate(scores):
        variance = np.full_like(counts, sizes[h] * sizes[g])
        overlap = concentration(variance, several).overlap(np.minimum(covariance, variance))
        overlaps[h, g] = np.average(np.where(counts > 1, overlap, 1.0), weights=weights)
    return overlaps


def _uniform(seq_len: int, *, causal: bool) -> tuple[float, float]:
    """Return the mean uniform weight on the query's token, and on any other token."""
    if not causal:
        return 1 / seq_len, 1 / seq_len
    i = np.arange(1.0, seq_len + 1)
    others = float(((i - 1) / i).sum()) / (seq_len * max(seq_len - 1, 1))
    return float((1 / i).mean()), others
