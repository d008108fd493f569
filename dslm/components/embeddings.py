"""Embeddings: sums of tables, and patches of an image with a class token."""

from __future__ import annotations

from collections.abc import Sequence

from dslm.components.elementary import linear
from dslm.components.moments import Moments, require_at_least
from dslm.errors import AssumptionError


def embedding(table_vars: Sequence[float], same: Sequence[float]) -> Moments:
    r"""Moments of a sum of embedding tables.

    .. math:: \sigma^2 = \sum_t \sigma_t^2, \quad r \sigma^2 = \sum_t P_t \sigma_t^2

    Args:
        table_vars: variance of each table's entries.
        same: for each table, the probability that two tokens look up the same row.

    Raises:
        AssumptionError: if the lengths differ or a probability is outside [0, 1].

    Source: arXiv 2403.09635, Table 1 (embeddings). Exact in expectation.
    """
    if len(table_vars) != len(same) or not all(0 <= p <= 1 for p in same):
        raise AssumptionError("give one probability from 0 to 1 for each table")
    var = sum(table_vars)
    cov = sum(p * v for p, v in zip(same, table_vars, strict=True))
    return Moments(mean=0.0, var=var, corr_l=cov / var if var > 0 else 0.0)


def patch_embedding(
    pixels: Moments,
    *,
    d_patch: int,
    weight_var: float,
    n_patches: int,
    class_var: float,
    position_var: float = 0.0,
) -> Moments:
    r"""Moments of a class token and n projected patches, each with its position's vector added.

    With v, c the variance and covariance of the projected patches (`linear`),

    .. math:: \sigma^2 = \frac{n v + \sigma_c^2}{n+1} + \sigma_p^2, \quad
        cov = \frac{n-1}{n+1}\, c

    since the class token and the positions are independent of every patch.

    Args:
        pixels: moments of one image's pixels; `corr_l` between the same pixel of two patches.
        d_patch: pixels of a patch, channels included.
        weight_var: variance of the projection's entries.
        n_patches: n, patches of an image.
        class_var: variance of the class token's entries.
        position_var: variance of the position table's entries.

    Raises:
        AssumptionError: if a size or variance is impossible.

    Source: derived here. Exact in expectation.
    """
    require_at_least("n_patches", n_patches, 1)
    require_at_least("class_var", class_var, 0)
    require_at_least("position_var", position_var, 0)
    patch = linear(pixels, d_in=d_patch, weight_var=weight_var)
    var = (n_patches * patch.var + class_var) / (n_patches + 1) + position_var
    cov = (n_patches - 1) / (n_patches + 1) * patch.cov_l
    return Moments(mean=0.0, var=var, corr_l=cov / var if var > 0 else 0.0)
