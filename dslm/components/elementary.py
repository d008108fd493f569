"""Dense layers, dropout and residual sums."""

from __future__ import annotations

from dslm.components.moments import (
    GradMoments,
    Moments,
    require_at_least,
    require_probability,
)


def linear(x: Moments, *, d_in: int, weight_var: float) -> Moments:
    r"""Moments after a dense layer of independent zero-mean weights.

    .. math:: \sigma_{out}^2 = d_{in}\sigma_w^2(\sigma^2 + \mu^2), \quad
        cov_{out} = d_{in}\sigma_w^2(r\sigma^2 + \mu^2)

    Args:
        x: moments of a (batch, seq, d_in) activation.
        d_in: input features.
        weight_var: :math:`\sigma_w^2`, variance of the weight's entries.

    Raises:
        AssumptionError: if a size or variance is impossible.

    Source: arXiv 2403.09635, Table 1 (linear). Exact in expectation.
    """
    require_at_least("d_in", d_in, 1)
    require_at_least("weight_var", weight_var, 0)
    second = x.second_moment
    corr_l = (x.cov_l + x.mean**2) / second if second > 0 else 0.0
    return Moments(mean=0.0, var=d_in * weight_var * second, corr_l=corr_l)


def linear_backward(g: GradMoments, *, d_out: int, weight_var: float) -> GradMoments:
    r"""Gradient below a dense layer: :math:`d_{out}\sigma_w^2\sigma_g^2`, correlation unchanged.

    Args:
        g: moments of the (batch, seq, d_out) gradient above.
        d_out: output features.
        weight_var: :math:`\sigma_w^2`, variance of the weight's entries.

    Raises:
        AssumptionError: if a size or variance is impossible.

    Source: arXiv 2403.09635, Table 1 (linear). Exact in expectation.
    """
    require_at_least("d_out", d_out, 1)
    require_at_least("weight_var", weight_var, 0)
    return GradMoments(var=d_out * weight_var * g.var, corr_l=g.corr_l)


def dropout(x: Moments, *, p_drop: float) -> Moments:
    r"""Moments after inverted dropout.

    .. math:: \sigma_{out}^2 = \frac{\sigma^2 + p\mu^2}{1-p}, \quad cov_{out} = r\sigma^2

    Different tokens have independent masks, so their covariance does not change.

    Args:
        x: moments of an activation.
        p_drop: p, the probability that an entry becomes 0.

    Raises:
        AssumptionError: if `p_drop` is not in [0, 1).

    Source: arXiv 2403.09635, Table 1 (dropout). Exact.
    """
    require_probability(p_drop)
    var = (x.var + p_drop * x.mean**2) / (1 - p_drop)
    return Moments(mean=x.mean, var=var, corr_l=x.cov_l / var if var > 0 else 0.0)


def dropout_backward(g: GradMoments, *, p_drop: float) -> GradMoments:
    r"""Gradient below dropout: variance :math:`\sigma_g^2/(1-p)`, covariance unchanged.

    Args:
        g: moments of the gradient above.
        p_drop: p, the probability that an entry becomes 0.

    Raises:
        AssumptionError: if `p_drop` is not in [0, 1).

    Source: arXiv 2403.09635, Table 1 (dropout). Exact.
    """
    require_probability(p_drop)
    return GradMoments(var=g.var / (1 - p_drop), corr_l=g.corr_l * (1 - p_drop))


def residual(skip: Moments, branch: Moments, *, lam: float, beta: float) -> Moments:
    r"""Moments of a residual sum, its two terms uncorrelated.

    .. math:: y = \lambda\,x + \beta f, \quad
        \sigma_y^2 = \lambda^2\sigma_x^2 + \beta^2\sigma_f^2, \quad
        cov_y = \lambda^2 cov_x + \beta^2 cov_f

    Args:
        skip: moments of x, the stream before the branch.
        branch: moments of f, the branch's output.
        lam, beta: amplitudes of the two.

    Source: arXiv 2403.09635, §3. Exact.
    """
    var = lam**2 * skip.var + beta**2 * branch.var
    cov = lam**2 * skip.cov_l + beta**2 * branch.cov_l
    mean = lam * skip.mean + beta * branch.mean
    return Moments(mean=mean, var=var, corr_l=cov / var if var > 0 else 0.0)


def residual_backward(
    g: GradMoments, through_branch: GradMoments, *, lam: float, beta: float
) -> GradMoments:
    r"""Gradient below a residual sum.

    .. math:: \sigma_{below}^2 = \lambda^2\sigma_g^2 + \beta^2\sigma_{through}^2

    and the same for the covariance.

    Args:
        g: moments of the gradient above.
        through_branch: moments of the gradient that the branch makes of `g`, without beta.
        lam, beta: amplitudes of skip and branch.

    Source: arXiv 2403.09635, §3; the two terms are uncorrelated for random branch weights.
    """
    var = lam**2 * g.var + beta**2 * through_branch.var
    cov = lam**2 * g.cov_l + beta**2 * through_branch.cov_l
    return GradMoments(var=var, corr_l=cov / var if var > 0 else 0.0)
