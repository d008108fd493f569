"""LayerNorm and RMSNorm, and the gain and bias after either."""

from __future__ import annotations

from dslm.components.moments import GradMoments, Moments, require_at_least, require_zero_mean
from dslm.errors import AssumptionError


def layer_norm(x: Moments, *, d_model: int) -> Moments:
    r"""Moments after LayerNorm.

    .. math:: \sigma_{out}^2 = 1, \quad r_{out} = r\left(1 - \frac{1 - r^2}{2d}\right)

    The reference prints :math:`r(1 - 1/d)`. Removing the mean over features takes 1/d of variance
    and covariance alike, which cancels in their quotient: what remains is the mean cosine of two
    Gaussian vectors.

    Args:
        x: moments of a (batch, seq, d_model) activation.
        d_model: d, the features normalised over.

    Raises:
        AssumptionError: if `d_model` < 2 or the variance is 0.

    Source: arXiv 2403.09635, Table 1 (LayerNorm), corrected here; to first order in 1/d.
    """
    return _normed(x, d_model)


def rms_norm(x: Moments, *, d_model: int) -> Moments:
    """Moments after RMSNorm: those of `layer_norm`, for an input of zero mean.

    Raises:
        AssumptionError: if ``x.mean`` is not 0, `d_model` < 2 or the variance is 0.

    Source: derived here; to first order in 1/d.
    """
    require_zero_mean(x, "rms_norm")
    return _normed(x, d_model)


def layer_norm_backward(g: GradMoments, x: Moments, *, d_model: int) -> GradMoments:
    r"""Gradient below LayerNorm.

    .. math:: \frac{\sigma_g^2}{\sigma^2}\frac{d-2}{d-3}, \quad
        r_g\left(1 - \frac{3(1 - r^2)}{2d}\right)

    are its variance and correlation. The Jacobian removes the components along 1 and along the
    token, 2/d of the energy. The divisor, a chi-square of d - 1 degrees of freedom, has
    :math:`E[1/s^2] = d/((d-3)\sigma^2)`.

    Args:
        g: moments of the gradient above the norm.
        x: moments of the norm's (batch, seq, d_model) input.
        d_model: d, the features normalised over.

    Raises:
        AssumptionError: if `d_model` < 4 or the variance is 0.

    Source: arXiv 2403.09635, Table 1 (LayerNorm); the 1/d terms derived here.
    """
    _require_signal(x, d_model, 4)
    corr_l = g.corr_l * (1 - 3 * (1 - x.corr_l**2) / (2 * d_model))
    return GradMoments(var=g.var / x.var * (d_model - 2) / (d_model - 3), corr_l=corr_l)


def rms_norm_backward(g: GradMoments, x: Moments, *, d_model: int) -> GradMoments:
    r"""Gradient below RMSNorm.

    .. math:: \frac{\sigma_g^2}{\sigma^2}\frac{d-1}{d-2}, \quad
        r_g\left(1 - \frac{3(1 - r^2)}{2d}\right)

    are its variance and correlation.

    Raises:
        AssumptionError: if ``x.mean`` is not 0, `d_model` < 3 or the variance is 0.

    Source: derived here, as `layer_norm_backward` without the component along 1.
    """
    require_zero_mean(x, "rms_norm")
    _require_signal(x, d_model, 3)
    corr_l = g.corr_l * (1 - 3 * (1 - x.corr_l**2) / (2 * d_model))
    return GradMoments(var=g.var / x.var * (d_model - 1) / (d_model - 2), corr_l=corr_l)


def gain(
    x: Moments, *, gain_mean: float = 1.0, gain_var: float = 0.0, bias_var: float = 0.0
) -> Moments:
    r"""Moments after a norm's gain and zero-mean bias, one of each for every feature.

    .. math:: \mu_{out} = E[\gamma]\mu, \quad
        \sigma_{out}^2 = E[\gamma^2](\sigma^2 + \mu^2) + \sigma_b^2 - \mu_{out}^2, \quad
        cov_{out} = E[\gamma^2](r\sigma^2 + \mu^2) + \sigma_b^2 - \mu_{out}^2

    All tokens have the same gain and bias, so a bias correlates them.

    Args:
        x: moments of the normalised activation.
        gain_mean, gain_var: mean and variance of the gain's entries.
        bias_var: E[b²] of the bias's entries.

    Raises:
        AssumptionError: if a variance is negative.

    Source: derived here. Exact for gains and biases independent of x.
    """
    require_at_least("gain_var", gain_var, 0)
    require_at_least("bias_var", bias_var, 0)
    square, mean = gain_mean**2 + gain_var, gain_mean * x.mean
    shared = square * x.mean**2 + bias_var - mean**2
    var = square * x.var + shared
    return Moments(mean, var, (square * x.cov_l + shared) / var if var > 0 else 0.0)


def gain_backward(g: GradMoments, *, gain_mean: float = 1.0, gain_var: float = 0.0) -> GradMoments:
    r"""Gradient below a gain: times :math:`E[\gamma]^2 + Var\,\gamma`, correlation unchanged.

    Raises:
        AssumptionError: if the variance is negative.

    Source: derived here. Exact for gradients independent of the gain.
    """
    require_at_least("gain_var", gain_var, 0)
    return GradMoments(var=(gain_mean**2 + gain_var) * g.var, corr_l=g.corr_l)


def _normed(x: Moments, d_model: int) -> Moments:
    _require_signal(x, d_model)
    corr_l = x.corr_l * (1 - (1 - x.corr_l**2) / (2 * d_model))
    return Moments(mean=0.0, var=1.0, corr_l=corr_l)


def _require_signal(x: Moments, d_model: int, least: int = 2) -> None:
    require_at_least("d_model", d_model, least)
    if x.var == 0:
        raise AssumptionError("a norm assumes an input that varies; its variance is 0")
