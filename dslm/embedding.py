"""The input kernel of a model, in expectation, where there is no batch yet."""

from __future__ import annotations

import numpy as np

from dslm.errors import SpecError
from dslm.kernels.grid import dropout, prepare
from dslm.kernels.norm import centre, norm
from dslm.masks.cell_sizes import cell_sizes
from dslm.spec import Kernel, Norm

SAME_SEGMENT = 2 / 3  # two tokens of a sequence cut in two at a uniformly random place


def same_token_probability(vocabulary: int, zipf_exponent: float = 1.0) -> float:
    r"""Return the probability that two ids drawn from Zipf's law are equal.

    .. math:: P = \sum_k k^{-2s} / (\sum_k k^{-s})^2 \approx \pi^2 / (6 \ln^2 V) \; (s = 1)

    Args:
        vocabulary: V, the number of ids.
        zipf_exponent: s; 1 for natural text.

    Source: arXiv 2403.09635, §4 (embeddings). Summed exactly here: the approximation leaves out
    Euler's constant and is 8 % off at V = 50,000.

    Raises:
        SpecError: if the vocabulary is empty.
    """
    if vocabulary < 1:
        raise SpecError("vocabulary", "give at least one id")
    weights = np.arange(1, vocabulary + 1, dtype=np.float64) ** -zipf_exponent
    return float((weights**2).sum() / weights.sum() ** 2)


def embedding_kernel(
    seq_len: int,
    vocabulary: int,
    *,
    token_var: float,
    position_var: float = 0.0,
    segment_var: float = 0.0,
    p_drop: float = 0.0,
    layer_norm: Norm | None = None,
    d_model: int = 1,
    zipf_exponent: float = 1.0,
) -> Kernel:
    r"""Return the kernel of summed embedding tables, for ids drawn from Zipf's law.

    .. math:: K_{ii} = \sigma_t^2 + \sigma_p^2 + \sigma_s^2, \quad
        K_{ij} = P \sigma_t^2 + \tfrac23 \sigma_s^2

    followed by the norm after the tables, where there is one (BERT), and by dropout.

    Args:
        seq_len: L; the kernel has the cells of `cell_sizes`, one per position up to 64.
        vocabulary: number of ids.
        token_var, position_var, segment_var: variance of each table's entries.
        p_drop: dropout probability on the sum.
        layer_norm: norm on the sum, over `d_model` features; None for none.
        d_model: width of the stream; read only where `layer_norm` is given.
        zipf_exponent: s of the law that ids are drawn from; 1 for natural text.

    Raises:
        SpecError: if a size is below 1 or `p_drop` is not a probability below 1.

    Source: arXiv 2403.09635, Table 1 (embeddings).
    """
    if seq_len < 1:
        raise SpecError("seq_len", "give at least one position")
    if not 0 <= p_drop < 1:
        raise SpecError("p_drop", "give a dropout probability from 0 to below 1")
    shared_var = same_token_probability(vocabulary, zipf_exponent) * token_var
    sizes = cell_sizes(seq_len)  # every pair of tokens has one expectation, so any cells are exact
    off = np.full((len(sizes), len(sizes)), shared_var + SAME_SEGMENT * segment_var)
    diagonal = np.full(len(sizes), token_var + position_var + segment_var)
    kernel = prepare(Kernel(diagonal, off, sizes))
    if layer_norm is not None:
        kernel = norm(centre(kernel, layer_norm, d_model), layer_norm)
    return dropout(kernel, p_drop)
