"""Activations and gated units on Gaussian inputs of zero mean."""

from __future__ import annotations

import math

import numpy as np

from dslm.components.moments import GradMoments, Moments, require_zero_mean
from dslm.duals import dual_of
from dslm.duals.hermite import gaussian_mean
from dslm.duals.pointwise import POINTWISE
from dslm.spec import Activation


def relu(x: Moments) -> Moments:
    r"""Moments after ReLU, for Gaussian inputs of zero mean.

    .. math:: \mu = \frac{\sigma}{\sqrt{2\pi}}, \quad \sigma_{out}^2 = \frac{\pi-1}{2\pi}\sigma^2,
        \quad cov_{out} = \frac{\sqrt{1-r^2} + r(\pi - \arccos r) - 1}{2\pi}\sigma^2

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (ReLU). Exact.
    """
    return activation(x, "relu")


def relu_backward(g: GradMoments, x: Moments) -> GradMoments:
    r"""Gradient below ReLU: :math:`\sigma_g^2/2`, covariance times
    :math:`\frac14 + \frac{\arcsin r}{2\pi}`.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (ReLU). Exact for gradients independent of x.
    """
    return activation_backward(g, x, "relu")


def gelu(x: Moments) -> Moments:
    r"""Moments after exact GELU, for Gaussian inputs of zero mean.

    With :math:`s = \sigma^2` and :math:`a = s/(1+s)`,

    .. math:: \mu = \sqrt{\frac{sa}{2\pi}}, \quad \sigma_{out}^2 =
        \frac{s}{2\pi}\left(\pi - a - \arccos a + 2a\sqrt{\frac{1-a}{1+a}}\right)

    The covariance is that of `dslm.duals.gelu`.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: arXiv 2403.09635, Table 1 (GELU) for the variance, the rest derived here. Exact.
    """
    return activation(x, "gelu")


def gelu_backward(g: GradMoments, x: Moments) -> GradMoments:
    """Gradient below exact GELU: as `activation_backward`, with the closed form.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: derived here. Exact for gradients independent of x.
    """
    return activation_backward(g, x, "gelu")


def activation(x: Moments, name: Activation) -> Moments:
    r"""Moments after any activation, for Gaussian inputs of zero mean.

    .. math:: \mu = E[\phi(u)], \quad \sigma_{out}^2 = E[\phi(u)^2] - \mu^2, \quad
        cov_{out} = E[\phi(u)\phi(v)] - \mu^2

    u and v being normal with variance :math:`\sigma^2` and correlation r.

    Args:
        x: moments of a (batch, seq, features) activation.
        name: of the activation.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: derived here; closed forms for ReLU and GELU, quadrature for the others.
    """
    require_zero_mean(x, name)
    mean = _mean(x.var, name)
    var = _dual(x, 1.0, name) - mean**2
    cov = _dual(x, x.corr_l, name) - mean**2
    return Moments(mean=mean, var=max(var, 0.0), corr_l=min(cov / var, 1.0) if var > 0 else 0.0)


def activation_backward(g: GradMoments, x: Moments, name: Activation) -> GradMoments:
    r"""Gradient below an activation.

    .. math:: \sigma_{below}^2 = E[\phi'(u)^2]\,\sigma_g^2, \quad
        cov_{below} = E[\phi'(u)\phi'(v)]\,cov_g

    Args:
        g: moments of the gradient above.
        x: moments of the activation's input.
        name: of the activation.

    Raises:
        AssumptionError: if ``x.mean`` is not 0.

    Source: derived here. Exact for gradients independent of x.
    """
    require_zero_mean(x, name)
    dual, v = dual_of(name), np.array(x.var)
    var = float(dual.slope(v, v, v)) * g.var
    cov = float(dual.slope(v, v, x.corr_l * v)) * g.cov_l
    return GradMoments(var=var, corr_l=cov / var if var > 0 else 0.0)


def gated(gate: Moments, up: Moments, name: Activation) -> Moments:
    r"""Moments of :math:`\phi(gate) \cdot up`, two independent signals (SwiGLU, GEGLU).

    .. math:: \sigma_{out}^2 = E[\phi^2]\sigma_{up}^2, \quad
        cov_{out} = E[\phi\phi]_r\; r_{up}\sigma_{up}^2

    Raises:
        AssumptionError: if a mean is not 0.

    Source: derived here: gate and up are independent linear maps. Exact.
    """
    require_zero_mean(gate, name)
    require_zero_mean(up, "a gated unit")
    var = _dual(gate, 1.0, name) * up.var
    cov = _dual(gate, gate.corr_l, name) * up.cov_l
    return Moments(mean=0.0, var=var, corr_l=cov / var if var > 0 else 0.0)


def gated_backward(
    g: GradMoments, gate: Moments, up: Moments, name: Activation
) -> tuple[GradMoments, GradMoments]:
    r"""Gradients below a gated unit, (at the gate, at up).

    .. math:: \sigma_{gate}^2 = E[\phi'^2]\sigma_{up}^2\sigma_g^2, \quad
        \sigma_{up,g}^2 = E[\phi^2]\sigma_g^2

    Raises:
        AssumptionError: if a mean is not 0.

    Source: derived here. Exact for gradients independent of both inputs.
    """
    require_zero_mean(up, "a gated unit")
    slope = activation_backward(g, gate, name)
    of_gate = GradMoments(var=slope.var * up.var, corr_l=slope.corr_l * up.corr_l)
    energy = _dual(gate, 1.0, name)
    shared = _dual(gate, gate.corr_l, name) / energy if energy > 0 else 0.0
    return of_gate, GradMoments(var=energy * g.var, corr_l=shared * g.corr_l)


def _dual(x: Moments, corr: float, name: Activation) -> float:
    v = np.array(x.var)
    return float(dual_of(name).value(v, v, corr * v))


def _mean(var: float, name: Activation) -> float:
    if name == "relu":
        return math.sqrt(var / (2 * math.pi))
    if name == "gelu":
        return var / math.sqrt(2 * math.pi * (1 + var))
    return 0.0 if name == "identity" else gaussian_mean(POINTWISE[name][0], var)
