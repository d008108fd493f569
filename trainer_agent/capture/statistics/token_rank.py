"""How many directions the tokens of a sequence span, from their products with each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rank_sums(grams: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""How many Gram matrices were seen, their effective and stable ranks; (rows, 3), to add up.

    With the eigenvalues :math:`\lambda_i` of :math:`X X^T`, the squared singular values of the
    tokens :math:`X`: stable rank :math:`\sum_i \lambda_i / \max_i \lambda_i` (that is
    :math:`\|X\|_F^2 / \|X\|_2^2`), effective rank :math:`\exp(-\sum_i p_i \ln p_i)` of
    :math:`p_i = \lambda_i / \sum_j \lambda_j`. Both are 1 where all tokens are one vector.

    Args:
        grams: (rows, tokens, tokens); all zero where nothing was seen.

    Source: Roy and Vetterli 2007 for the effective rank, here of eigenvalues where they take
    singular values, so that both ranks speak of the same shares of energy.
    """
    found = np.zeros((len(grams), 3))
    traces = np.trace(grams, axis1=1, axis2=2)
    broken = ~np.isfinite(grams).all(axis=(1, 2))
    found[broken] = 1, np.nan, np.nan
    seen = ~broken & (traces > 0)
    if seen.any():
        values = np.maximum(np.linalg.eigvalsh(grams[seen]), 0.0)
        shares = values / values.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.where(shares > 0, shares * np.log(shares), 0.0).sum(axis=1)
        found[seen] = np.stack(
            [np.ones(len(values)), np.exp(entropy), 1 / shares.max(axis=1)], axis=1
        )
    return found
